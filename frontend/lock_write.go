package frontend

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/suggest"

	"github.com/org/localfront/frontend/graph"
	"github.com/org/localfront/frontend/ledger"
	"github.com/org/localfront/frontend/lockfile"
	"github.com/org/localfront/frontend/resolve"
)

// Values of LOCALFRONT_LOCK beside names.
const (
	lockUpdate = "update" // resolve all anew, drop what is unused
	lockAdd    = "add"    // resolve what is missing, keep the rest
)

// lockWriter is one build that writes the lock in place of what the Dockerfile
// describes.
type lockWriter struct {
	*decorated
	mode  string
	given map[lockfile.Key]bool // the names asked for, where mode is neither update nor add
}

// writeLock returns a file system with the lock and nothing else.
func (c *decorated) writeLock(ctx context.Context) (*client.Result, error) {
	w := &lockWriter{decorated: c, mode: c.opts.lock, given: map[lockfile.Key]bool{}}
	c.ahead.expect = nil // nothing is remembered here
	if w.mode != lockUpdate && w.mode != lockAdd {
		for _, name := range strings.Split(w.mode, ",") {
			for _, kind := range []lockfile.Kind{lockfile.Image, lockfile.Git, lockfile.HTTP} {
				if k, err := lockfile.NewKey(kind, name); err == nil {
					w.given[k] = true
				}
			}
		}
	}
	s, err := c.survey(ctx, w.answerer())
	if err != nil {
		return nil, err
	}
	if err := w.checkGiven(s); err != nil {
		return nil, err
	}
	old, err := w.old(ctx)
	if err != nil {
		return nil, err
	}
	now, err := w.now(ctx, s, old)
	if err != nil {
		return nil, err
	}
	return c.lockResult(ctx, now, w.changes(old, now))
}

// old returns the lock as it is. One that cannot be understood is none to
// update, which writes all of it anew; what is something else is not written
// over.
func (w *lockWriter) old(ctx context.Context) (*lockfile.File, error) {
	f, err := w.readLock(ctx)
	var bad *lockfile.Error
	if w.mode == lockUpdate && errors.As(err, &bad) && !errors.Is(err, lockfile.ErrFile) && !errors.Is(err, lockfile.ErrDockerfile) {
		w.builder.warnOnce(ctx, "bad lock", fmt.Sprintf("%s is written anew: %s", bad.File, bad.Reason))
		return lockfile.New(bad.File), nil
	}
	return f, err
}

// keeps reports whether the pin of k stays as it is.
func (w *lockWriter) keeps(k lockfile.Key) bool {
	return w.mode == lockAdd || w.mode != lockUpdate && !w.given[k]
}

// answerer answers names by what is kept of the lock, and asks for all others,
// whatever is remembered.
func (w *lockWriter) answerer() answerer {
	var mem resolve.Memory = forgetful{w.memory}
	if w.opts.offline {
		mem = w.memory // there is nobody else to ask
	}
	r := resolve.New(w.builder, mem, unpinned{w}, resolve.Options{
		Offline: w.opts.offline,
		Lock: func(ctx context.Context) (*lockfile.File, error) {
			old, err := w.old(ctx)
			if old == nil || err != nil {
				return nil, err
			}
			kept := lockfile.New(old.Name)
			for _, e := range old.Entries() {
				if w.keeps(e.Key) {
					kept.Put(e)
				}
			}
			return kept, nil
		},
	}, w.clock)
	return func(ctx context.Context, q resolve.Query) (resolve.Answer, error) {
		mode := q.Mode
		q.Mode = resolve.Pull
		a, err := r.Resolve(ctx, q)
		if err == nil || mode != resolve.Local || w.opts.offline || ctx.Err() != nil {
			return a, err
		}
		// Only this engine may have it, and nobody else could use the pin.
		q.Mode = mode
		own, oerr := w.builder.Ask(ctx, q.Name, q, q.Step+" "+reference.FamiliarString(q.Name)+" from image store")
		if oerr != nil {
			return a, err
		}
		w.builder.warnOnce(ctx, "own "+q.Name.String(), reference.FamiliarString(q.Name)+" is in this engine's image store only, so it is not in the lock")
		own.Own = true
		return own, nil
	}
}

// forgetful is a memory that knows no tag, since each is asked for anyway: what is
// not read starts no container. It still knows where the content of a pin is.
type forgetful struct{ *memory }

// Read reports whether a source policy governs a tag, and reads the entry of a
// digest.
func (f forgetful) Read(ctx context.Context, key string, named reference.Named) (ledger.Entry, bool) {
	if key == resolve.Key(named) {
		return ledger.Entry{}, f.Governed(ctx, named)
	}
	return f.memory.Read(ctx, key, named)
}

// unpinned are the named results that the lock does not pin already and that the
// user does not want pinned: a name in the lock means an image from outside.
type unpinned struct{ w *lockWriter }

// Result returns the result of a name that the lock does not pin.
func (u unpinned) Result(ctx context.Context, key string) *ledger.Result {
	k := lockfile.Key{Kind: lockfile.Image, Name: key}
	old, err := u.w.old(ctx)
	if _, pinned := old.Get(k); err != nil || pinned || u.w.given[k] {
		return nil
	}
	return u.w.memory.Result(ctx, key)
}

// Names lists all named results.
func (u unpinned) Names(ctx context.Context) []string { return u.w.memory.Names(ctx) }

// checkGiven fails for names that the Dockerfile has not.
func (w *lockWriter) checkGiven(s *survey) error {
	if len(w.given) == 0 && (w.mode == lockUpdate || w.mode == lockAdd) {
		return nil
	}
	known := []string{lockUpdate, lockAdd}
	for _, u := range s.sorted() {
		known = append(known, u.short())
	}
	for _, name := range strings.Split(w.mode, ",") {
		found := false
		for _, u := range s.uses {
			k, err := lockfile.NewKey(u.Kind, name)
			found = found || err == nil && k == u.Key
		}
		if found {
			continue
		}
		name = lockfile.WithoutCredentials(name)
		remedy := "known are " + strings.Join(known, ", ")
		if match, ok := suggest.Search(name, known, true); ok {
			remedy = "did you mean " + match + "?"
		}
		return &OptionError{"LOCALFRONT_LOCK=" + lockfile.WithoutCredentials(w.mode), false, fmt.Sprintf("%s takes nothing by the name %q", w.lock.dockerfile, name), remedy}
	}
	return nil
}

// now returns the lock as it shall be.
func (w *lockWriter) now(ctx context.Context, s *survey, old *lockfile.File) (*lockfile.File, error) {
	f := lockfile.New(w.lockName(old))
	// Another Dockerfile of the folder may need what this one does not.
	shared := f.Name != w.lock.own()
	for _, e := range old.Entries() {
		_, used := s.uses[e.Key]
		if w.mode != lockUpdate || shared && !used {
			f.Put(e)
		}
	}
	for _, u := range s.sorted() {
		_, there := old.Get(u.Key)
		if there && w.keeps(u.Key) || !there && w.mode != lockUpdate && w.mode != lockAdd && !w.given[u.Key] {
			continue
		}
		if graph.LooksSecret(u.Name) {
			return nil, fmt.Errorf("%s has what looks like a token in its address, and a lock is committed: give it as the secret HTTP_AUTH_TOKEN_<host> or GIT_AUTH_TOKEN", u)
		}
		value, err := w.value(ctx, u)
		if err != nil {
			return nil, err
		}
		if value == "" {
			w.builder.warnOnce(ctx, "no digest "+u.Name, u.short()+" has no digest on this engine, so it is not in the lock")
			continue
		}
		f.Put(lockfile.Entry{Key: u.Key, Value: value})
	}
	return f, nil
}

// value returns what a source means now.
func (c *decorated) value(ctx context.Context, u *use) (string, error) {
	if u.remote == nil {
		return u.answer.Digest.String(), nil
	}
	op := u.remote.Op.CloneVT()
	delete(op.Attrs, pb.AttrKeepGitDir) // or it would be a tag's object
	if c.opts.offline {
		return "", fmt.Errorf("offline: nobody can be asked what %s is: build without offline", u.Name)
	}
	md, err := c.Client.ResolveSourceMetadata(ctx, op, sourceresolver.Opt{LogName: "[internal] resolve " + u.short()})
	if err != nil {
		return "", fmt.Errorf("%s: %w", u.String(), err)
	}
	switch {
	case md.Git != nil && md.Git.CommitChecksum != "":
		return md.Git.CommitChecksum, nil
	case md.Git != nil && md.Git.Checksum != "":
		return md.Git.Checksum, nil
	case md.HTTP != nil && md.HTTP.Digest != "":
		return md.HTTP.Digest.String(), nil
	}
	return "", fmt.Errorf("this builder cannot tell what %s is: use BuildKit 0.25 or later, or give it a --checksum in the Dockerfile", u.String())
}

// changes says what is new, one line each.
func (w *lockWriter) changes(old, now *lockfile.File) (lines []string) {
	same := 0
	for _, e := range now.Entries() {
		was, ok := old.Get(e.Key)
		switch {
		case !ok:
			lines = append(lines, fmt.Sprintf("%s: new, %s", short(e.Key), e.Value))
		case was.Value != e.Value:
			lines = append(lines, fmt.Sprintf("%s: %s → %s", short(e.Key), was.Value, e.Value))
		default:
			same++
		}
	}
	for _, e := range old.Entries() {
		if _, ok := now.Get(e.Key); !ok {
			lines = append(lines, fmt.Sprintf("%s: removed, nothing uses it", short(e.Key)))
		}
	}
	return append(lines, fmt.Sprintf("%d pins, %d of them as before", len(now.Entries()), same))
}

// lockResult returns the lock as the one file of a result. What has changed is
// said in the progress, which every client shows: one step writes the file for
// each line.
func (c *decorated) lockResult(ctx context.Context, f *lockfile.File, lines []string) (*client.Result, error) {
	const most = 100 // lines
	if n := len(lines); n > most {
		lines = append(lines[:most-2:most-2], fmt.Sprintf("and %d more", n-most+1), lines[n-1])
	}
	st := llb.Scratch()
	for i, line := range lines {
		data := []byte(strings.Join(lines[:i+1], "\n"))
		if i == len(lines)-1 {
			data = f.Format()
		}
		st = st.File(llb.Mkfile("/"+f.Name, 0o644, data), llb.WithCustomName("["+f.Name+"] "+line))
	}
	def, err := st.Marshal(ctx, llb.WithCaps(c.bopts.LLBCaps))
	if err != nil {
		return nil, err
	}
	return c.Client.Solve(ctx, client.SolveRequest{Definition: def.ToPB()})
}
