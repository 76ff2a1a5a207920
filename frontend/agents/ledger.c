//go:build ignore

/*
 * The ledger's agent: writes its environment to a file, and nothing else.
 *
 * It runs as PID 1 of a container whose read-only root holds only this
 * program, with no network and one writable mount at /out. argv[1] is the
 * key of a ledger entry, there for people to read; the agent ignores it.
 *
 * It creates /out/value (mode 0444) with the values of HTTP_PROXY,
 * HTTPS_PROXY, FTP_PROXY and ALL_PROXY, one after another in this order. A
 * variable that is not set adds nothing, and of one set twice the first
 * counts. NO_PROXY carries a nonce and is not read. An empty file means
 * "absent".
 *
 * Exit status: 0 if the file is complete, else 1 (open), 2 (write) or 3
 * (close). BuildKit discards what a failed process wrote, so the agent does
 * not clean up.
 *
 * Its bytes travel in every ledger read and are part of every ledger key:
 * keep it small, and know that a changed byte forgets all that builders
 * remember. Rebuild with build.sh.
 */

#include "syscall.h"

enum { EXIT_OPEN = 1, EXIT_WRITE = 2, EXIT_CLOSE = 3 };

/* The same on every architecture that syscall.h knows. */
enum { AT_FDCWD = -100, O_WRONLY = 01, O_CREAT = 0100, O_TRUNC = 01000, EINTR = 4 };

__attribute__((noreturn)) static void exit(int status)
{
	for (;;)
		syscall4(SYS_exit, status, 0, 0, 0);
}

/* Returns what follows prefix in its first match in env, or "". */
static const char *value(char **env, const char *prefix)
{
	for (; *env; env++) {
		const char *e = *env, *p = prefix;
		while (*p && *e == *p)
			e++, p++;
		if (!*p)
			return e;
	}
	return "";
}

static void write_all(long fd, const char *s)
{
	const char *end = s;
	while (*end)
		end++;
	while (s != end) {
		long n = syscall4(SYS_write, fd, (long)s, end - s, 0);
		if (n > 0)
			s += n;
		else if (n != -EINTR)
			exit(EXIT_WRITE);
	}
}

/* Called by _start with the stack as the kernel left it: argc, argv, 0, envp, 0. */
__attribute__((noreturn, used)) void agent(long *stack)
{
	static const char *const prefixes[] = {
		"HTTP_PROXY=", "HTTPS_PROXY=", "FTP_PROXY=", "ALL_PROXY=",
	};
	char **env = (char **)(stack + 1 + stack[0] + 1);
	long fd;

	do
		fd = syscall4(SYS_openat, AT_FDCWD, (long)"/out/value",
			      O_WRONLY | O_CREAT | O_TRUNC, 0444);
	while (fd == -EINTR);
	if (fd < 0)
		exit(EXIT_OPEN);

	for (unsigned i = 0; i < sizeof prefixes / sizeof *prefixes; i++)
		write_all(fd, value(env, prefixes[i]));

	/* Not retried after EINTR: Linux has released fd by then. */
	if (syscall4(SYS_close, fd, 0, 0, 0) < 0)
		exit(EXIT_CLOSE);
	exit(0);
}
