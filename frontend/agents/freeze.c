//go:build ignore

/*
 * The agent that freezes a build context: it makes of a directory that belongs
 * to a client's session one that belongs to the builder.
 *
 *   freeze keep SECONDS   copies the tree at /in into /cache, under a digest of
 *                         all that it holds, and writes that digest to
 *                         /out/digest. A tree that is there already stays.
 *                         What is in /cache for longer than SECONDS was left by
 *                         somebody who was stopped, and is removed.
 *   freeze take DIGEST    takes that tree away, copies it into /out, and takes
 *                         the digest of what it has written: another one tells
 *                         that somebody has changed the tree. The tree comes
 *                         back only where /out could not be written.
 *   freeze lend DIGEST AGAIN
 *                         does the same, and puts the tree back. AGAIN makes it
 *                         another vertex.
 *
 * It runs as PID 1 of a container whose read-only root holds only this program,
 * without a network. /in is read-only and nobody's to change. /cache is a cache
 * mount that other agents use at the same moment: a tree gets its name when it
 * is complete, and loses it before it is read, by a rename. Whatever else may be in /cache is not trusted, and
 * no link there is followed.
 *
 * Exit status and a line on stderr tell what went wrong, see enum status.
 *
 * The digest is SHA-256 over the entries of the tree in byte order of their
 * names, each directory followed by what is in it: see digest_entry. The root's
 * own time is left out: it tells when the builder last received a file.
 *
 * Its bytes are part of the cache key of every frozen context: a changed byte
 * freezes all of them anew. Rebuild with build.sh.
 */

#include "syscall.h"
#include "sha256.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned u32;
typedef unsigned long long u64;
typedef long long i64;

enum status {
	FAILED_USAGE = 1,
	FAILED_SOURCE = 2, /* /in could not be read */
	FAILED_OUTPUT = 3, /* /out or /cache could not be written */
	FAILED_ABSENT = 4, /* /cache has no tree of that digest */
	FAILED_DIGEST = 5, /* it has one, but with something else in it */
};

/* The same on every architecture that syscall.h knows. */
enum {
	AT_FDCWD = -100,
	AT_SYMLINK_NOFOLLOW = 0x100,
	AT_REMOVEDIR = 0x200,
	AT_EMPTY_PATH = 0x1000,
	O_RDONLY = 0,
	O_WRONLY = 01,
	O_CREAT = 0100,
	O_EXCL = 0200,
	O_TRUNC = 01000,
	O_NONBLOCK = 04000, /* a fifo put in a file's place must not block */
	SEEK_SET = 0,
	SEEK_DATA = 3,
	SEEK_HOLE = 4,
	S_IFMT = 0170000,
	S_IFSOCK = 0140000,
	S_IFLNK = 0120000,
	S_IFREG = 0100000,
	S_IFDIR = 040000,
	STATX_BASIC_STATS = 0x7ff,
	PROT_READ_WRITE = 3,
	MAP_PRIVATE_ANONYMOUS = 0x22,
};

enum {
	EPERM = 1, ENOENT = 2, EINTR = 4, EIO = 5, ENXIO = 6, ENOMEM = 12, EACCES = 13,
	EEXIST = 17, EXDEV = 18, ENOTDIR = 20, EISDIR = 21, EINVAL = 22, EFBIG = 27, ENOSPC = 28,
	EROFS = 30, EMLINK = 31, ENAMETOOLONG = 36, ENOSYS = 38, ENOTEMPTY = 39, ELOOP = 40, ENODATA = 61,
	EOPNOTSUPP = 95, EDQUOT = 122,
};

enum {
	FRAME = 32 << 10,      /* bytes for a directory's listing, at first */
	BUFFER = 128 << 10,    /* bytes read at once */
	XATTR_MAX = 64 << 10,  /* bytes of a list of names, or of a value */
	HEX = 64,              /* digits of a digest */
	NAME = 80,             /* bytes of a name in /cache, and more */
	PATHS = 256 << 10,     /* bytes for paths of hard links, at a time */
};

struct timestamp { i64 sec; u32 nsec; u32 pad; };

struct statx {
	u32 mask, blksize;
	u64 attributes;
	u32 nlink, uid, gid;
	u16 mode, pad0;
	u64 ino, size, blocks, attributes_mask;
	struct timestamp atime, btime, ctime, mtime;
	u32 rdev_major, rdev_minor, dev_major, dev_minor;
	u64 spare[14];
};

struct dirent { u64 ino; i64 off; u16 reclen; u8 type; char name[]; };

/* A directory on the way from the root to where a walk is. */
struct dir {
	struct dir *up;
	const char *name; /* in the listing of up; "" for the root */
	struct statx st;
	struct timestamp newest; /* of what is directly in it */
	u32 size;                /* bytes mapped, from the start of this struct */
	u32 *order;              /* offsets of names from the struct, sorted */
	u32 count, next;
};

/* A file with several names, as it was first met. */
struct link {
	u32 dev_major, dev_minor;
	u64 ino;
	u64 entry;        /* its number in a digest, from 1; 0 is a free slot */
	const char *path; /* below the root of a copy */
};

struct links {
	struct link *slots;
	u64 size, used; /* size is a power of two */
	char *paths;
	u32 left;
};

/* What all walks of a process share. */
struct run {
	int cache;
	u32 age;              /* seconds after which what is in /cache was forgotten */
	char wanted[HEX + 1]; /* the digest to take, or the one of /in */
	char stage[NAME];     /* this process's own tree in /cache, "" if there is none */
	u8 taking;            /* it is the one wanted, taken away */
	u8 lends;             /* it is put back */
	u8 plain; /* copy_file_range does not work here */
	u8 failing;
	char *buffer, *list, *value;
	u32 *names; /* offsets into list, sorted */
};

struct walk {
	struct run *run;
	enum { DIGEST, COPY, REMOVE } does;
	enum status unreadable; /* what it means that from cannot be read */
	int from, to;           /* the directory where the walk is */
	int top;                /* the root of a copy */
	struct dir *dir;
	u64 entries;
	struct sha256 *hash;
	struct links links;
};

/* The system call again, as long as a signal interrupts it. */
#define RETRY(call)                   \
	__extension__({               \
		long r_;              \
		do                    \
			r_ = (call);  \
		while (r_ == -EINTR); \
		r_;                   \
	})

/* gcc calls these two by itself. */
void *memcpy(void *to, const void *from, unsigned long n)
{
	char *t = to;
	const char *f = from;
	while (n--)
		*t++ = *f++;
	return to;
}

void *memset(void *to, int c, unsigned long n)
{
	for (char *t = to; n--;)
		*t++ = c;
	return to;
}

static u32 length(const char *s)
{
	u32 n = 0;
	while (s[n])
		n++;
	return n;
}

static int compare(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return (u8)*a - (u8)*b;
}

static int equal(const char *a, const char *b) { return !compare(a, b); }

static int begins(const char *s, const char *prefix)
{
	while (*prefix && *s == *prefix)
		s++, prefix++;
	return !*prefix;
}

static char *append(char *to, const char *s)
{
	while (*s)
		*to++ = *s++;
	*to = 0;
	return to;
}

__attribute__((noreturn)) static void exit(int status)
{
	for (;;)
		syscall4(SYS_exit, status, 0, 0, 0);
}

static void close(int fd) { syscall4(SYS_close, fd, 0, 0, 0); }

static long openat(int fd, const char *name, int flags, int mode)
{
	return RETRY(syscall4(SYS_openat, fd, (long)name, flags | O_LARGEFILE, mode));
}

static long stat_at(int fd, const char *name, struct statx *st)
{
	return RETRY(syscall5(SYS_statx, fd, (long)name, AT_SYMLINK_NOFOLLOW | (*name ? 0 : AT_EMPTY_PATH),
			      STATX_BASIC_STATS, (long)st));
}

static long write_all(int fd, const char *p, u32 n)
{
	while (n) {
		long w = RETRY(syscall4(SYS_write, fd, (long)p, n, 0));
		if (w < 0)
			return w;
		p += w, n -= w;
	}
	return 0;
}

static const char *reason(long error)
{
	switch (-error) {
	case EPERM: return "operation not permitted";
	case ENOENT: return "no such file or directory";
	case EIO: return "input/output error";
	case ENOMEM: return "out of memory";
	case EACCES: return "permission denied";
	case EEXIST: return "file exists";
	case ENOTDIR: return "not a directory";
	case EFBIG: return "file too large";
	case ENOSPC: return "no space left on device";
	case EROFS: return "read-only file system";
	case EMLINK: return "too many links";
	case ENAMETOOLONG: return "path too long";
	case ENOSYS: return "the kernel has no such call";
	case ELOOP: return "a symbolic link";
	case EOPNOTSUPP: return "operation not supported";
	case EDQUOT: return "disk quota exceeded";
	case ENODATA: return "it became shorter while it was read";
	}
	return 0;
}

/* A line on stderr, put together in a buffer that ends long paths early. */
struct line { char text[1200]; u32 n; };

static void say_byte(struct line *l, u8 c)
{
	static const char digits[] = "0123456789abcdef";
	if (l->n + 5 > sizeof l->text)
		return;
	if (c >= ' ' && c < 0x7f && c != '\\') {
		l->text[l->n++] = c;
		return;
	}
	l->text[l->n++] = '\\', l->text[l->n++] = 'x';
	l->text[l->n++] = digits[c >> 4], l->text[l->n++] = digits[c & 15];
}

static void say(struct line *l, const char *s)
{
	while (*s)
		say_byte(l, *s++);
}

/* Without a division, which arm has not. */
static void say_number(struct line *l, u32 n)
{
	for (u32 unit = 1000, digit; unit; unit = unit == 1000 ? 100 : unit == 100 ? 10 : unit == 10) {
		for (digit = 0; n >= unit && digit < 9; n -= unit)
			digit++;
		say_byte(l, '0' + digit);
	}
}

static void say_path(struct line *l, const struct walk *w, const char *name)
{
	u32 depth = 0;
	for (struct dir *d = w->dir; d; d = d->up)
		depth++;
	while (depth--) {
		struct dir *d = w->dir;
		for (u32 i = 0; i < depth; i++)
			d = d->up;
		if (*d->name)
			say(l, d->name), say(l, "/");
	}
	say(l, *name ? name : ".");
}

static void clean_up(struct run *r, enum status status);

/* Ends the process after a failure in a walk. */
__attribute__((noreturn)) static void
fail(struct walk *w, enum status status, const char *does, const char *name, long error)
{
	struct line l = { .n = 0 };
	const char *why = reason(error);

	say(&l, "freeze: cannot ");
	say(&l, does);
	say(&l, " ");
	say_path(&l, w, name);
	say(&l, ": ");
	if (why)
		say(&l, why);
	else
		say(&l, "error "), say_number(&l, -error);
	l.text[l.n++] = '\n';
	write_all(2, l.text, l.n);
	clean_up(w->run, status);
	exit(status);
}

/* As fail, outside of a walk. */
__attribute__((noreturn)) static void
stop(struct run *r, enum status status, const char *does, const char *name, long error)
{
	struct walk w = { .run = r };
	fail(&w, status, does, name, error);
}

static void *map(struct run *r, u64 size)
{
	const long failed = -4096;
#if defined(__s390x__)
	unsigned long args[6] = { 0, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1UL, 0 };
	long p = syscall4(SYS_mmap, (long)args, 0, 0, 0);
#elif defined(__i386__) || defined(__arm__)
	long p = size >> 31 ? -ENOMEM : syscall5(SYS_mmap2, 0, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1);
#else
	long p = syscall5(SYS_mmap, 0, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1);
#endif
	if ((unsigned long)p > (unsigned long)failed)
		stop(r, FAILED_OUTPUT, "get", "memory", p);
	return (void *)p;
}

static void unmap(void *p, u64 size) { syscall4(SYS_munmap, (long)p, size, 0, 0); }

/* Moves the offset of fd. Returns 0 and the new one, or -errno. */
static long seek(int fd, u64 *offset, int whence)
{
#if defined(__i386__) || defined(__arm__)
	return syscall5(SYS__llseek, fd, *offset >> 32, *offset, (long)offset, whence);
#else
	long r = syscall4(SYS_lseek, fd, *offset, whence, 0);
	if (r < 0)
		return r;
	*offset = r;
	return 0;
#endif
}

static long resize(int fd, u64 size)
{
#if defined(__i386__)
	return RETRY(syscall4(SYS_ftruncate64, fd, size, size >> 32, 0));
#elif defined(__arm__) /* 64-bit arguments begin in an even register */
	return RETRY(syscall4(SYS_ftruncate64, fd, 0, size, size >> 32));
#else
	return RETRY(syscall4(SYS_ftruncate, fd, size, 0, 0));
#endif
}

/* Sets the time of modification of name in fd, or of fd itself if it is "". */
static long set_time(int fd, const char *name, const struct timestamp *t)
{
	const char *path = *name ? name : 0;
	int flags = *name ? AT_SYMLINK_NOFOLLOW : 0;
	i64 times[4] = { t->sec, t->nsec, t->sec, t->nsec };
#if defined(__i386__) || defined(__arm__)
	long narrow[4] = { t->sec, t->nsec, t->sec, t->nsec };
	long r = syscall4(SYS_utimensat_time64, fd, (long)path, (long)times, flags);
	if (r != -ENOSYS && r != -EPERM) /* filters of old engines say EPERM */
		return r;
	return syscall4(SYS_utimensat, fd, (long)path, (long)narrow, flags);
#else
	return syscall4(SYS_utimensat, fd, (long)path, (long)times, flags);
#endif
}

/* Sorts offsets of strings from base. Heapsort: no recursion, no bad case. */
static void sort(const char *base, u32 *order, u32 n)
{
	u32 start = n / 2, end = n;
	while (end > 1) {
		u32 root, moved;
		if (start) {
			moved = order[--start];
		} else {
			moved = order[--end];
			order[end] = order[0];
		}
		for (root = start;;) {
			u32 child = 2 * root + 1;
			if (child >= end)
				break;
			if (child + 1 < end && compare(base + order[child], base + order[child + 1]) < 0)
				child++;
			if (compare(base + moved, base + order[child]) >= 0)
				break;
			order[root] = order[child];
			root = child;
		}
		order[root] = moved;
	}
}

static int is_dots(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

static struct dirent *entry_at(struct dir *d, u32 offset) { return (struct dirent *)((char *)d + offset); }

static struct dir *grow(struct run *r, struct dir *d)
{
	struct dir *bigger;
	if (d->size > 1u << 30)
		stop(r, FAILED_OUTPUT, "get", "memory", -ENOMEM);
	bigger = map(r, (u64)d->size * 2);
	memcpy(bigger, d, d->size);
	bigger->size = d->size * 2;
	unmap(d, d->size);
	return bigger;
}

/*
 * Returns the listing of a directory, sorted, or 0 with the error. It is to be
 * unmapped after use. The names stand behind the struct, as the kernel wrote
 * them, and behind them their order.
 */
static struct dir *list(struct run *r, int fd, long *error)
{
	struct dir *d = map(r, FRAME);
	u32 used = sizeof *d, end;
	long n;

	d->size = FRAME;
	for (;;) {
		if (d->size - used < FRAME / 8)
			d = grow(r, d);
		n = RETRY(syscall4(SYS_getdents64, fd, (long)d + used, d->size - used, 0));
		if (n <= 0)
			break;
		used += n;
	}
	if (n < 0) {
		*error = n;
		unmap(d, d->size);
		return 0;
	}
	end = used;
	for (u32 at = sizeof *d; at < end; at += entry_at(d, at)->reclen)
		d->count++;
	used = (used + 7) & ~7u;
	while (d->size - used < d->count * sizeof *d->order)
		d = grow(r, d);
	d->order = (u32 *)((char *)d + used);
	d->count = 0;
	for (u32 at = sizeof *d; at < end; at += entry_at(d, at)->reclen)
		if (!is_dots(entry_at(d, at)->name))
			d->order[d->count++] = at + __builtin_offsetof(struct dirent, name);
	sort((char *)d, d->order, d->count);
	return d;
}

static u64 hash_of(const struct statx *st)
{
	u64 h = (st->ino ^ ((u64)st->dev_major << 52) ^ ((u64)st->dev_minor << 40)) * 0x9e3779b97f4a7c15ull;
	return h ^ h >> 29;
}

/* Returns the slot of a file, or the free one where it belongs. */
static struct link *find(struct links *l, const struct statx *st)
{
	for (u64 i = hash_of(st);; i++) {
		struct link *slot = &l->slots[(unsigned long)(i & (l->size - 1))];
		if (!slot->entry || (slot->ino == st->ino && slot->dev_major == st->dev_major &&
				     slot->dev_minor == st->dev_minor))
			return slot;
	}
}

static void grow_links(struct run *r, struct links *l)
{
	struct links bigger = *l;
	bigger.size = l->size ? l->size * 2 : 256;
	bigger.slots = map(r, bigger.size * sizeof *l->slots);
	for (u64 i = 0; i < l->size; i++) {
		struct link *old = &l->slots[(unsigned long)i];
		struct statx key = { .ino = old->ino, .dev_major = old->dev_major, .dev_minor = old->dev_minor };
		if (old->entry)
			*find(&bigger, &key) = *old;
	}
	if (l->slots)
		unmap(l->slots, l->size * sizeof *l->slots);
	*l = bigger;
}

/* Returns the path of name below the root, in memory that stays. */
static const char *path_of(struct walk *w, const char *name)
{
	struct links *l = &w->links;
	u32 n = length(name) + 1;
	char *p;

	for (struct dir *d = w->dir; d; d = d->up)
		n += length(d->name) + 1;
	if (n > PATHS)
		fail(w, FAILED_OUTPUT, "link", name, -ENAMETOOLONG);
	if (n > l->left) {
		l->paths = map(w->run, PATHS);
		l->left = PATHS;
	}
	p = l->paths + l->left - 1;
	for (const char *s = name + length(name); s > name;)
		*--p = *--s;
	for (struct dir *d = w->dir; d && *d->name; d = d->up) {
		*--p = '/';
		for (const char *s = d->name + length(d->name); s > d->name;)
			*--p = *--s;
	}
	l->left = p - l->paths;
	return p;
}

/*
 * Returns where a file was met before, or 0 if it is new or has one name only.
 * A new one is taken note of.
 */
static struct link *met(struct walk *w, const char *name, const struct statx *st)
{
	struct links *l = &w->links;
	struct link *slot;

	if (st->nlink < 2)
		return 0;
	if (l->used * 2 >= l->size)
		grow_links(w->run, l);
	slot = find(l, st);
	if (slot->entry)
		return slot;
	slot->dev_major = st->dev_major, slot->dev_minor = st->dev_minor, slot->ino = st->ino;
	slot->entry = w->entries;
	slot->path = w->does == COPY ? path_of(w, name) : "";
	l->used++;
	return 0;
}

/* Extended attributes that are content, rather than the machine's. */
static int is_content(const char *xattr)
{
	return begins(xattr, "user.") || equal(xattr, "security.capability") ||
	       equal(xattr, "system.posix_acl_access") || equal(xattr, "system.posix_acl_default");
}

/* Reads the names of fd's attributes into run->list; returns how many. */
static u32 xattrs(struct walk *w, int fd, const char *name)
{
	struct run *r = w->run;
	u32 n = 0;
	long size = syscall4(SYS_flistxattr, fd, (long)r->list, XATTR_MAX, 0);

	if (size == -EOPNOTSUPP || size == -ENOSYS)
		return 0;
	if (size < 0)
		fail(w, w->unreadable, "list the attributes of", name, size);
	for (u32 at = 0; at < (u32)size; at += length(r->list + at) + 1)
		if (is_content(r->list + at))
			r->names[n++] = at;
	sort(r->list, r->names, n);
	return n;
}

static u32 xattr_value(struct walk *w, int fd, const char *name, const char *xattr)
{
	long n = syscall4(SYS_fgetxattr, fd, (long)xattr, (long)w->run->value, XATTR_MAX);
	if (n < 0)
		fail(w, w->unreadable, "read an attribute of", name, n);
	return n;
}

/* ---- digest ---- */

static void hash_number(struct walk *w, u64 n)
{
	u8 dt[8];
	for (u32 i = 0; i < 8; i++)
		dt[i] = n >> (56 - 8 * i);
	sha256_update(w->hash, dt, sizeof dt);
}

static void hash_bytes(struct walk *w, const char *p, u32 n)
{
	hash_number(w, n);
	sha256_update(w->hash, p, n);
}

/* What all kinds of entries have: kind, name, mode, owner, time. */
static void hash_head(struct walk *w, char kind, const char *name, const struct statx *st)
{
	sha256_update(w->hash, &kind, 1);
	hash_bytes(w, name, length(name));
	hash_number(w, st->mode);
	hash_number(w, (u64)st->uid << 32 | st->gid);
	hash_number(w, *name ? st->mtime.sec : 0);
	hash_number(w, *name ? st->mtime.nsec : 0);
}

static void hash_xattrs(struct walk *w, int fd, const char *name)
{
	u32 n = xattrs(w, fd, name);
	hash_number(w, n);
	for (u32 i = 0; i < n; i++) {
		const char *xattr = w->run->list + w->run->names[i];
		u32 size = xattr_value(w, fd, name, xattr);
		hash_bytes(w, xattr, length(xattr));
		hash_bytes(w, w->run->value, size);
	}
}

static void hash_file(struct walk *w, const char *name, const struct statx *st)
{
	long fd = openat(w->from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	u64 left = st->size;

	if (fd < 0)
		fail(w, w->unreadable, "open", name, fd);
	hash_xattrs(w, fd, name);
	hash_number(w, st->size);
	while (left) {
		long n = RETRY(syscall4(SYS_read, fd, (long)w->run->buffer, left < BUFFER ? left : BUFFER, 0));
		if (n <= 0)
			fail(w, w->unreadable, "read", name, n ? n : -ENODATA);
		sha256_update(w->hash, w->run->buffer, n);
		left -= n;
	}
	close(fd);
}

static u32 read_link(struct walk *w, const char *name)
{
	long n = syscall4(SYS_readlinkat, w->from, (long)name, (long)w->run->buffer, BUFFER - 1);
	if (n < 0)
		fail(w, w->unreadable, "read the link", name, n);
	w->run->buffer[n] = 0;
	return n;
}

/* Adds one entry that is no directory. */
static void digest_entry(struct walk *w, const char *name, const struct statx *st)
{
	struct link *first = met(w, name, st);
	if (first) {
		sha256_update(w->hash, "l", 1);
		hash_bytes(w, name, length(name));
		hash_number(w, first->entry);
		return;
	}
	switch (st->mode & S_IFMT) {
	case S_IFREG:
		hash_head(w, 'f', name, st);
		hash_file(w, name, st);
		break;
	case S_IFLNK:
		hash_head(w, 's', name, st);
		hash_bytes(w, w->run->buffer, read_link(w, name));
		break;
	default: /* a device, fifo or socket: mode says which */
		hash_head(w, 'n', name, st);
		hash_number(w, (u64)st->rdev_major << 32 | st->rdev_minor);
	}
}

/* ---- copy ---- */

static void copy_xattrs(struct walk *w, int in, int out, const char *name)
{
	u32 n = xattrs(w, in, name);
	for (u32 i = 0; i < n; i++) {
		const char *xattr = w->run->list + w->run->names[i];
		u32 size = xattr_value(w, in, name, xattr);
		long e = syscall5(SYS_fsetxattr, out, (long)xattr, (long)w->run->value, size, 0);
		if (e < 0)
			fail(w, FAILED_OUTPUT, "set an attribute of", name, e);
	}
}

/* Gives out all that in has but its content. A new owner takes away the
 * capabilities and the setuid bit, so it comes first. */
static void copy_rest(struct walk *w, int in, int out, const char *name, const struct statx *st,
		      const struct timestamp *mtime)
{
	long e = syscall4(SYS_fchown, out, st->uid, st->gid, 0);
	if (e < 0)
		fail(w, FAILED_OUTPUT, "set the owner of", name, e);
	copy_xattrs(w, in, out, name);
	e = syscall4(SYS_fchmod, out, st->mode & 07777, 0, 0);
	if (e < 0)
		fail(w, FAILED_OUTPUT, "set the mode of", name, e);
	e = set_time(out, "", mtime);
	if (e < 0)
		fail(w, FAILED_OUTPUT, "set the time of", name, e);
}

/* Copies bytes from where in is to where out is. */
static void copy_bytes(struct walk *w, int in, int out, u64 left, const char *name)
{
	struct run *r = w->run;
	while (left && !r->plain) {
		long n = RETRY(syscall5(SYS_copy_file_range, in, 0, out, 0, left < 1u << 30 ? left : 1u << 30));
		if (n == -ENOSPC || n == -EDQUOT || n == -EFBIG)
			fail(w, FAILED_OUTPUT, "write", name, n);
		if (n == -ENOSYS || n == -EPERM || n == -EXDEV)
			r->plain = 1;
		if (n <= 0) /* some file systems cannot: read and write */
			break;
		left -= n;
	}
	while (left) {
		long e, n = RETRY(syscall4(SYS_read, in, (long)r->buffer, left < BUFFER ? left : BUFFER, 0));
		if (n <= 0)
			fail(w, w->unreadable, "read", name, n ? n : -ENODATA);
		e = write_all(out, r->buffer, n);
		if (e < 0)
			fail(w, FAILED_OUTPUT, "write", name, e);
		left -= n;
	}
}

/* Copies the content of a file and leaves holes what they are. */
static void copy_content(struct walk *w, int in, int out, const struct statx *st, const char *name)
{
	u64 at = 0;
	long e;

	if (st->blocks << 9 >= st->size) {
		copy_bytes(w, in, out, st->size, name);
		return;
	}
	while (at < st->size) {
		u64 end = at;
		e = seek(in, &at, SEEK_DATA);
		if (e == -ENXIO)
			break;
		end = at;
		if (e < 0 || seek(in, &end, SEEK_HOLE) < 0)
			end = st->size; /* no holes on this file system */
		if (at >= st->size)
			break;
		if (end > st->size)
			end = st->size;
		if (seek(in, &at, SEEK_SET) < 0 || seek(out, &at, SEEK_SET) < 0)
			fail(w, FAILED_OUTPUT, "seek in", name, -EIO);
		copy_bytes(w, in, out, end - at, name);
		at = end;
	}
	e = resize(out, st->size);
	if (e < 0)
		fail(w, FAILED_OUTPUT, "write", name, e);
}

static void copy_file(struct walk *w, const char *name, const struct statx *st)
{
	long in, out;

	in = openat(w->from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
	if (in < 0)
		fail(w, w->unreadable, "open", name, in);
	out = openat(w->to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	if (out < 0)
		fail(w, FAILED_OUTPUT, "create", name, out);
	copy_content(w, in, out, st, name);
	copy_rest(w, in, out, name, st, &st->mtime);
	close(in);
	close(out);
}

/* Copies what has a name and no content: a symlink, device, fifo or socket. */
static void copy_node(struct walk *w, const char *name, const struct statx *st)
{
	long e;

	if ((st->mode & S_IFMT) == S_IFLNK) {
		read_link(w, name);
		e = syscall4(SYS_symlinkat, (long)w->run->buffer, w->to, (long)name, 0);
	} else {
		u32 dev = (st->rdev_minor & 0xff) | st->rdev_major << 8 | (st->rdev_minor & ~0xffu) << 12;
		e = syscall4(SYS_mknodat, w->to, (long)name, st->mode, dev);
	}
	if (e < 0)
		fail(w, FAILED_OUTPUT, "create", name, e);
	e = syscall5(SYS_fchownat, w->to, (long)name, st->uid, st->gid, AT_SYMLINK_NOFOLLOW);
	if (e < 0)
		fail(w, FAILED_OUTPUT, "set the owner of", name, e);
	/* The new owner took them away. Whoever puts a link here at this moment
	 * leads no further than to the mounts, whose digests are checked. */
	if (st->mode & 06000 && (st->mode & S_IFMT) != S_IFLNK) {
		e = syscall4(SYS_fchmodat, w->to, (long)name, st->mode & 07777, 0);
		if (e < 0)
			fail(w, FAILED_OUTPUT, "set the mode of", name, e);
	}
	e = set_time(w->to, name, &st->mtime);
	if (e < 0)
		fail(w, FAILED_OUTPUT, "set the time of", name, e);
}

/* Copies one entry that is no directory. */
static void copy_entry(struct walk *w, const char *name, const struct statx *st)
{
	struct link *first = met(w, name, st);
	if (first) {
		long e = syscall5(SYS_linkat, w->top, (long)first->path, w->to, (long)name, 0);
		if (e < 0)
			fail(w, FAILED_OUTPUT, "link", name, e);
	} else if ((st->mode & S_IFMT) == S_IFREG) {
		copy_file(w, name, st);
	} else {
		copy_node(w, name, st);
	}
}

/* ---- walk ---- */

static int later(const struct timestamp *a, const struct timestamp *b)
{
	return a->sec > b->sec || (a->sec == b->sec && a->nsec > b->nsec);
}

static long open_dir(int fd, const char *name)
{
	return openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
}

/* Goes into the directory that w->from, and w->to, are now: reads its listing.
 * Removing goes on where reading fails. */
static void enter(struct walk *w, const char *name, const struct statx *st)
{
	long error = 0;
	struct dir *d = list(w->run, w->from, &error);

	if (!d && w->does != REMOVE)
		fail(w, w->unreadable, "read", name, error);
	if (!d) {
		d = map(w->run, FRAME);
		d->size = FRAME;
	}
	if (w->does == DIGEST) {
		hash_head(w, 'd', name, st);
		hash_xattrs(w, w->from, name);
	}
	d->up = w->dir;
	d->name = name;
	d->st = *st;
	w->dir = d;
}

/* Goes down into name. Returns 0 where removing cannot. */
static int descend(struct walk *w, const char *name, const struct statx *st)
{
	long from = open_dir(w->from, name);

	if (from < 0) {
		if (w->does == REMOVE)
			return 0;
		fail(w, w->unreadable, "open", name, from);
	}
	if (w->does == COPY) {
		long to = syscall4(SYS_mkdirat, w->to, (long)name, 0700, 0);
		if (to >= 0)
			to = open_dir(w->to, name);
		if (to < 0)
			fail(w, FAILED_OUTPUT, "create", name, to);
		close(w->to);
		w->to = to;
	}
	close(w->from);
	w->from = from;
	enter(w, name, st);
	return 1;
}

/*
 * Leaves the directory whose entries have all been seen. The one above is found
 * by its "..", since as many open files as a tree may be deep are not allowed.
 * Somebody who moves directories of /cache about meanwhile leads the walk to
 * another place of /cache; what comes of it has another digest.
 */
static void ascend(struct walk *w)
{
	struct dir *d = w->dir;
	long up;

	if (w->does == DIGEST)
		sha256_update(w->hash, "e", 1);
	if (w->does == COPY)
		copy_rest(w, w->from, w->to, "", &d->st, d->up ? &d->st.mtime : &d->newest);
	w->dir = d->up;
	if (d->up) {
		up = open_dir(w->from, "..");
		close(w->from);
		if (up < 0 && w->does != REMOVE)
			fail(w, w->unreadable, "leave", d->name, up);
		w->from = up;
		if (w->does == COPY) {
			up = open_dir(w->to, "..");
			close(w->to);
			if (up < 0)
				fail(w, FAILED_OUTPUT, "leave", d->name, up);
			w->to = up;
		}
		if (w->does == REMOVE && up >= 0)
			syscall4(SYS_unlinkat, w->from, (long)d->name, AT_REMOVEDIR, 0);
	}
	unmap(d, d->size);
}

static void visit(struct walk *w, const char *name)
{
	struct statx st;
	long e = stat_at(w->from, name, &st);

	if (w->does == REMOVE) {
		if (e < 0 || (st.mode & S_IFMT) != S_IFDIR || !descend(w, name, &st))
			syscall4(SYS_unlinkat, w->from, (long)name, 0, 0);
		return;
	}
	if (e < 0)
		fail(w, w->unreadable, "examine", name, e);
	w->entries++;
	if (later(&st.mtime, &w->dir->newest))
		w->dir->newest = st.mtime;
	if ((st.mode & S_IFMT) == S_IFDIR)
		descend(w, name, &st);
	else if (w->does == DIGEST)
		digest_entry(w, name, &st);
	else
		copy_entry(w, name, &st);
}

/* Walks the tree at w->from, which it closes, as w->to. */
static void walk(struct walk *w)
{
	struct statx st;
	long e = stat_at(w->from, "", &st);

	if (e < 0)
		fail(w, w->unreadable, "examine", "", e);
	enter(w, "", &st);
	while (w->dir) {
		struct dir *d = w->dir;
		if (d->next < d->count)
			visit(w, (char *)d + d->order[d->next++]);
		else
			ascend(w);
	}
	close(w->from);
	if (w->does == COPY)
		close(w->to);
	if (w->links.slots)
		unmap(w->links.slots, w->links.size * sizeof *w->links.slots);
}

static void digest(struct run *r, int fd, enum status unreadable, char hex[HEX + 1])
{
	static const char digits[] = "0123456789abcdef";
	struct sha256 hash;
	u8 sum[32];
	struct walk w = { .run = r, .does = DIGEST, .unreadable = unreadable, .from = fd, .to = -1, .hash = &hash };

	sha256_init(&hash);
	walk(&w);
	sha256_final(&hash, sum);
	for (u32 i = 0; i < sizeof sum; i++) {
		*hex++ = digits[sum[i] >> 4];
		*hex++ = digits[sum[i] & 15];
	}
	*hex = 0;
}

/* Copies the tree at from, which is closed, into the directory name of at. */
static void copy(struct run *r, int from, enum status unreadable, int at, const char *name)
{
	struct walk w = { .run = r, .does = COPY, .unreadable = unreadable, .from = from };
	long to = open_dir(at, name), top = open_dir(at, name);

	if (to < 0 || top < 0)
		stop(r, FAILED_OUTPUT, "open", name, to < 0 ? to : top);
	w.to = to, w.top = top;
	walk(&w);
	close(top);
}

/* ---- the cache ---- */

/* Removes an entry of the cache, as far as it can. */
static void remove(struct run *r, const char *name)
{
	struct walk w = { .run = r, .does = REMOVE, .to = -1 };
	long fd = open_dir(r->cache, name);

	if (fd >= 0) {
		w.from = fd;
		walk(&w);
	}
	if (syscall4(SYS_unlinkat, r->cache, (long)name, AT_REMOVEDIR, 0) == -ENOTDIR)
		syscall4(SYS_unlinkat, r->cache, (long)name, 0, 0);
}

/* Makes a directory in the cache that is nobody else's, and its name. */
static long make_stage(struct run *r, char name[NAME])
{
	for (u32 i = 0;; i++) {
		char *end = append(name, "tmp-");
		long e;
		for (u32 n = i, digits = 8; digits--; n <<= 4)
			*end++ = "0123456789abcdef"[n >> 28];
		*end = 0;
		e = syscall4(SYS_mkdirat, r->cache, (long)name, 0700, 0);
		if (e != -EEXIST)
			return e;
	}
}

static long rename(struct run *r, const char *from, const char *to)
{
	return syscall5(SYS_renameat2, r->cache, (long)from, r->cache, (long)to, 0);
}

/* What a failed process must not leave in the cache. The tree that it took may
 * be good, if it was /out that failed. */
static void clean_up(struct run *r, enum status status)
{
	if (r->failing || !*r->stage)
		return;
	r->failing = 1;
	if (!r->taking || status != FAILED_OUTPUT || rename(r, r->stage, r->wanted) < 0)
		remove(r, r->stage);
}

/* Removes what was put into the cache too long before now. */
static void sweep(struct run *r, const struct timestamp *now)
{
	long error, fd = open_dir(r->cache, ".");
	struct dir *d = fd < 0 ? 0 : list(r, fd, &error);

	for (u32 i = 0; d && i < d->count; i++) {
		const char *name = (char *)d + d->order[i];
		struct statx st;
		if (stat_at(fd, name, &st) == 0 && now->sec - st.ctime.sec > r->age)
			remove(r, name);
	}
	if (d)
		unmap(d, d->size);
	if (fd >= 0)
		close(fd);
}

static int has(struct run *r, const char *tree)
{
	struct statx st;
	return stat_at(r->cache, tree, &st) == 0 && (st.mode & S_IFMT) == S_IFDIR;
}

/* Copies /in into the cache under its digest. */
static void put(struct run *r)
{
	struct statx now;
	long e = make_stage(r, r->stage);

	if (e < 0 || (e = stat_at(r->cache, r->stage, &now)) < 0)
		stop(r, FAILED_OUTPUT, "create", r->stage, e);
	sweep(r, &now.ctime);
	copy(r, open_dir(AT_FDCWD, "/in"), FAILED_SOURCE, r->cache, r->stage);
	e = rename(r, r->stage, r->wanted);
	if (e == -ENOTDIR) { /* something else has its name: it goes */
		syscall4(SYS_unlinkat, r->cache, (long)r->wanted, 0, 0);
		e = rename(r, r->stage, r->wanted);
	}
	if (e == -EEXIST || e == -ENOTEMPTY) /* another agent was faster */
		remove(r, r->stage);
	else if (e < 0)
		stop(r, FAILED_OUTPUT, "create", r->wanted, e);
	*r->stage = 0;
}

static void keep(struct run *r)
{
	char answer[NAME], *end;
	long e, fd = open_dir(AT_FDCWD, "/in");

	if (fd < 0)
		stop(r, FAILED_SOURCE, "open", "/in", fd);
	digest(r, fd, FAILED_SOURCE, r->wanted);
	if (!has(r, r->wanted))
		put(r);
	fd = openat(AT_FDCWD, "/out/digest", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0444);
	if (fd < 0)
		stop(r, FAILED_OUTPUT, "create", "/out/digest", fd);
	end = append(append(answer, "sha256:"), r->wanted);
	e = write_all(fd, answer, end - answer);
	if (e >= 0)
		e = syscall4(SYS_close, fd, 0, 0, 0);
	if (e < 0)
		stop(r, FAILED_OUTPUT, "write", "/out/digest", e);
}

static void take(struct run *r)
{
	static const char changed[] = "freeze: the tree in the cache is not what its digest says\n";
	char found[HEX + 1];
	long fd, e = make_stage(r, r->stage);

	if (e < 0)
		stop(r, FAILED_OUTPUT, "create", r->stage, e);
	e = rename(r, r->wanted, r->stage);
	if (e == -ENOENT)
		stop(r, FAILED_ABSENT, "find", r->wanted, e);
	if (e < 0) { /* it is no directory */
		syscall4(SYS_unlinkat, r->cache, (long)r->wanted, 0, 0);
		stop(r, FAILED_DIGEST, "take", r->wanted, e);
	}
	r->taking = 1;
	fd = open_dir(r->cache, r->stage);
	if (fd < 0)
		stop(r, FAILED_DIGEST, "open", r->wanted, fd);
	copy(r, fd, FAILED_DIGEST, AT_FDCWD, "/out");
	fd = open_dir(AT_FDCWD, "/out");
	if (fd < 0)
		stop(r, FAILED_OUTPUT, "open", "/out", fd);
	digest(r, fd, FAILED_OUTPUT, found);
	if (!equal(found, r->wanted)) {
		write_all(2, changed, sizeof changed - 1);
		clean_up(r, FAILED_DIGEST);
		exit(FAILED_DIGEST);
	}
	if (!r->lends || rename(r, r->stage, r->wanted) < 0)
		remove(r, r->stage);
}

static int parse_age(const char *s, u32 *age)
{
	const char *digit = s;
	for (*age = 0; *digit >= '0' && *digit <= '9' && digit < s + 9; digit++)
		*age = *age * 10 + (*digit - '0');
	return digit > s && !*digit;
}

/* Takes the digits of a digest. They become a name in the cache. */
static int parse_digest(const char *s, char hex[HEX + 1])
{
	u32 n = 0;
	if (!begins(s, "sha256:"))
		return 0;
	for (s += 7; n < HEX && ((*s >= '0' && *s <= '9') || (*s >= 'a' && *s <= 'f')); s++)
		hex[n++] = *s;
	hex[n] = 0;
	return n == HEX && !*s;
}

/* Called by _start with the stack as the kernel left it: argc, argv, 0, envp, 0. */
__attribute__((noreturn, used)) void agent(long *stack)
{
	long argc = stack[0];
	char **argv = (char **)(stack + 1);
	struct run r = { .cache = -1 };
	int keeps = argc == 3 && equal(argv[1], "keep") && parse_age(argv[2], &r.age);
	int takes = argc == 3 && equal(argv[1], "take") && parse_digest(argv[2], r.wanted);

	r.lends = argc == 4 && equal(argv[1], "lend") && parse_digest(argv[2], r.wanted);
	if (!keeps && !takes && !r.lends) {
		static const char usage[] = "freeze: run it as keep SECONDS, take sha256:DIGEST or lend sha256:DIGEST AGAIN\n";
		write_all(2, usage, sizeof usage - 1);
		exit(FAILED_USAGE);
	}
	syscall4(SYS_umask, 0, 0, 0, 0);
	r.buffer = map(&r, BUFFER);
	r.list = map(&r, XATTR_MAX);
	r.value = map(&r, XATTR_MAX);
	r.names = map(&r, XATTR_MAX * sizeof *r.names / 2);
	r.cache = open_dir(AT_FDCWD, "/cache");
	if (r.cache < 0)
		stop(&r, FAILED_OUTPUT, "open", "/cache", r.cache);
	if (keeps)
		keep(&r);
	else
		take(&r);
	exit(0);
}
