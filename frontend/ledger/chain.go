package ledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// patience bounds one read or write of what must not be lost or overlooked, on
// however busy a builder: what a name was built as.
const patience = time.Minute

// maxChain bounds a chain. It grows only by builds of one name that run at the
// same time, each holding the place that it wrote.
const maxChain = 256

// errChainTooLong is returned where a chain is longer than can be.
var errChainTooLong = errors.New("more than " + strconv.Itoa(maxChain) + " builds hold this name")

// A chain is the values of one key that must not be lost: those under KEY,
// "KEY #1", "KEY #2" and so on up to the first place without one.
//
// One place is not enough. While a build runs that wrote it, its export
// included, and while any build runs that read it meanwhile, BuildKit merges
// every later write of that place, and every read, into that write
// (solver/scheduler.go, mergeTo; solver/index.go, LoadOrStore): the later value
// is lost, without an error. The write returns what was kept, though. So who
// finds another value kept goes on to the next place. Values say themselves
// which of them is the newest.
//
// A place is read before it is written, always. A read of a place without a
// value runs the agent, which saves that it has none, and one that ended after
// a write would hide it. The writer's own read joins any such run and waits for
// its end, and later reads find what it saved (see the solver's edgeIndex), so
// none can end after the write begins.
type chain struct {
	ledger *Ledger
	key    string
	values []string // of the places with a value
	ends   bool     // the place after them is known to have none
}

func (l *Ledger) chain(key string) *chain { return &chain{ledger: l, key: key} }

// place returns the key of the n-th place.
func (c *chain) place(n int) string {
	if n == 0 {
		return c.key
	}
	return fmt.Sprintf("%s #%d", c.key, n)
}

// read reads on to the end of the chain, ahead places at once.
func (c *chain) read(ctx context.Context, ahead int) error {
	for !c.ends {
		first := len(c.values)
		if first >= maxChain {
			return errChainTooLong
		}
		values, errs := make([]string, ahead), make([]error, ahead)
		var wg sync.WaitGroup
		for i := range ahead {
			wg.Go(func() { values[i], errs[i] = c.ledger.get(ctx, c.place(first+i), "") })
		}
		wg.Wait()
		for i, v := range values {
			if errs[i] != nil {
				return errs[i]
			}
			if v == "" {
				c.ends = true
				break
			}
			c.values = append(c.values, v)
		}
	}
	return nil
}

// write writes a value in the first place that takes it. value returns what to
// write, and is given each value that was found in the chain, first those that
// read found.
func (c *chain) write(ctx context.Context, found func(v string), value func() (string, error)) error {
	if err := c.read(ctx, 1); err != nil {
		return err
	}
	for _, v := range c.values {
		found(v)
	}
	for n := 0; n < maxChain; n++ {
		if n == len(c.values) && !c.ends {
			// A new place. It may have a value that is newer still.
			if err := c.read(ctx, 1); err != nil {
				return err
			}
			for _, v := range c.values[n:] {
				found(v)
			}
		}
		v, err := value()
		if err != nil {
			return err
		}
		kept, err := c.ledger.get(ctx, c.place(n), v)
		if err != nil {
			return err
		}
		if kept == v {
			return nil
		}
		if n < len(c.values) {
			c.values[n] = kept
		} else {
			c.values, c.ends = append(c.values, kept), false
		}
		found(kept)
	}
	return errChainTooLong
}

// get reads the place under key or, with a value, writes it and returns what was
// kept.
func (l *Ledger) get(ctx context.Context, key, value string) (string, error) {
	req, err := l.request(ctx, key, value)
	if err != nil {
		return "", err
	}
	return l.solve(ctx, req, valueFile, patience)
}
