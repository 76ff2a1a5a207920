/*
 * What the agents need of each architecture: system call numbers, the flags of
 * open that differ, syscall4 and syscall5, and _start, which passes the initial
 * stack pointer to agent().
 *
 * syscall4 and syscall5 return the kernel's answer, or -errno. A sixth argument
 * is zero with syscall5. openat stands for open, which arm64 and riscv64 do not
 * have; where SYS_lseek is missing, files have 64-bit offsets by SYS__llseek.
 */

#define UNUSED __attribute__((unused)) /* by one of the agents */

#define START(...) __asm__(".globl _start\n.type _start, %function\n_start:\n" __VA_ARGS__)

#if defined(__x86_64__)

enum { SYS_write = 1, SYS_close = 3, SYS_exit = 60, SYS_openat = 257 };
enum {
	SYS_read = 0, SYS_lseek = 8, SYS_mmap = 9, SYS_munmap = 11, SYS_ftruncate = 77,
	SYS_fchmod = 91, SYS_fchown = 93, SYS_umask = 95, SYS_fsetxattr = 190,
	SYS_fgetxattr = 193, SYS_flistxattr = 196, SYS_getdents64 = 217,
	SYS_mkdirat = 258, SYS_mknodat = 259, SYS_fchownat = 260,
	SYS_fchmodat = 268, SYS_unlinkat = 263,
	SYS_linkat = 265, SYS_symlinkat = 266, SYS_readlinkat = 267,
	SYS_utimensat = 280, SYS_renameat2 = 316, SYS_copy_file_range = 326,
	SYS_statx = 332,
};
enum { O_LARGEFILE = 0100000, O_DIRECTORY = 0200000, O_NOFOLLOW = 0400000 };

START("xor %ebp, %ebp\n"
      "mov %rsp, %rdi\n"
      "and $-16, %rsp\n"
      "call agent\n");

UNUSED static long syscall4(long nr, long a, long b, long c, long d)
{
	long ret;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
}

UNUSED static long syscall5(long nr, long a, long b, long c, long d, long e)
{
	long ret;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = 0;
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

#elif defined(__i386__)

enum { SYS_exit = 1, SYS_write = 4, SYS_close = 6, SYS_openat = 295 };
enum {
	SYS_read = 3, SYS_umask = 60, SYS_munmap = 91, SYS_fchmod = 94,
	SYS__llseek = 140, SYS_mmap2 = 192, SYS_ftruncate64 = 194, SYS_fchown = 207,
	SYS_getdents64 = 220, SYS_fsetxattr = 228, SYS_fgetxattr = 231,
	SYS_flistxattr = 234, SYS_mkdirat = 296, SYS_mknodat = 297, SYS_fchownat = 298,
	SYS_fchmodat = 306,
	SYS_unlinkat = 301, SYS_linkat = 303, SYS_symlinkat = 304,
	SYS_readlinkat = 305, SYS_utimensat = 320, SYS_renameat2 = 353,
	SYS_copy_file_range = 377, SYS_statx = 383, SYS_utimensat_time64 = 412,
};
enum { O_LARGEFILE = 0100000, O_DIRECTORY = 0200000, O_NOFOLLOW = 0400000 };

/* The argument goes on the stack; 12 bytes keep it 16-byte aligned at the call. */
START("xor %ebp, %ebp\n"
      "mov %esp, %eax\n"
      "and $-16, %esp\n"
      "sub $12, %esp\n"
      "push %eax\n"
      "call agent\n");

UNUSED static long syscall4(long nr, long a, long b, long c, long d)
{
	long ret;
	__asm__ volatile("int $0x80"
			 : "=a"(ret)
			 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d)
			 : "memory");
	return ret;
}

UNUSED static long syscall5(long nr, long a, long b, long c, long d, long e)
{
	long ret;
	__asm__ volatile("push %%ebp\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "int $0x80\n\t"
			 "pop %%ebp"
			 : "=a"(ret)
			 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory");
	return ret;
}

#elif defined(__aarch64__)

enum { SYS_openat = 56, SYS_close = 57, SYS_write = 64, SYS_exit = 93 };
enum {
	SYS_fsetxattr = 7, SYS_fgetxattr = 10, SYS_flistxattr = 13, SYS_mknodat = 33,
	SYS_mkdirat = 34, SYS_unlinkat = 35, SYS_symlinkat = 36, SYS_linkat = 37,
	SYS_ftruncate = 46, SYS_fchmod = 52, SYS_fchownat = 54,
	SYS_fchmodat = 53, SYS_fchown = 55,
	SYS_getdents64 = 61, SYS_lseek = 62, SYS_read = 63, SYS_readlinkat = 78,
	SYS_utimensat = 88, SYS_umask = 166, SYS_munmap = 215, SYS_mmap = 222,
	SYS_renameat2 = 276, SYS_copy_file_range = 285, SYS_statx = 291,
};
enum { O_LARGEFILE = 0400000, O_DIRECTORY = 040000, O_NOFOLLOW = 0100000 };

/* The kernel keeps sp 16-byte aligned. */
START("mov x29, #0\n"
      "mov x30, #0\n"
      "mov x0, sp\n"
      "b agent\n");

UNUSED static long syscall4(long nr, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	__asm__ volatile("svc #0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3)
			 : "memory");
	return x0;
}

UNUSED static long syscall5(long nr, long a, long b, long c, long d, long e)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = 0;
	__asm__ volatile("svc #0"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
			 : "memory");
	return x0;
}

#elif defined(__arm__) && defined(__ARM_EABI__)

enum { SYS_exit = 1, SYS_write = 4, SYS_close = 6, SYS_openat = 322 };
enum {
	SYS_read = 3, SYS_umask = 60, SYS_munmap = 91, SYS_fchmod = 94,
	SYS__llseek = 140, SYS_mmap2 = 192, SYS_ftruncate64 = 194, SYS_fchown = 207,
	SYS_getdents64 = 217, SYS_fsetxattr = 228, SYS_fgetxattr = 231,
	SYS_flistxattr = 234, SYS_mkdirat = 323, SYS_mknodat = 324, SYS_fchownat = 325,
	SYS_fchmodat = 333,
	SYS_unlinkat = 328, SYS_linkat = 330, SYS_symlinkat = 331,
	SYS_readlinkat = 332, SYS_utimensat = 348, SYS_renameat2 = 382,
	SYS_copy_file_range = 391, SYS_statx = 397, SYS_utimensat_time64 = 412,
};
enum { O_LARGEFILE = 0400000, O_DIRECTORY = 040000, O_NOFOLLOW = 0100000 };

START("mov r11, #0\n"
      "mov lr, #0\n"
      "mov r0, sp\n"
      "bic sp, sp, #7\n"
      "b agent\n");

UNUSED static long syscall4(long nr, long a, long b, long c, long d)
{
	register long r7 __asm__("r7") = nr;
	register long r0 __asm__("r0") = a;
	register long r1 __asm__("r1") = b;
	register long r2 __asm__("r2") = c;
	register long r3 __asm__("r3") = d;
	__asm__ volatile("svc #0"
			 : "+r"(r0)
			 : "r"(r7), "r"(r1), "r"(r2), "r"(r3)
			 : "memory");
	return r0;
}

UNUSED static long syscall5(long nr, long a, long b, long c, long d, long e)
{
	register long r7 __asm__("r7") = nr;
	register long r0 __asm__("r0") = a;
	register long r1 __asm__("r1") = b;
	register long r2 __asm__("r2") = c;
	register long r3 __asm__("r3") = d;
	register long r4 __asm__("r4") = e;
	register long r5 __asm__("r5") = 0;
	__asm__ volatile("svc #0"
			 : "+r"(r0)
			 : "r"(r7), "r"(r1), "r"(r2), "r"(r3), "r"(r4), "r"(r5)
			 : "memory");
	return r0;
}

#elif defined(__powerpc64__) && _CALL_ELF == 2

enum { SYS_exit = 1, SYS_write = 4, SYS_close = 6, SYS_openat = 286 };
enum {
	SYS_read = 3, SYS_lseek = 19, SYS_umask = 60, SYS_mmap = 90, SYS_munmap = 91,
	SYS_ftruncate = 93, SYS_fchmod = 94, SYS_fchown = 95, SYS_getdents64 = 202,
	SYS_fsetxattr = 211, SYS_fgetxattr = 214, SYS_flistxattr = 217,
	SYS_mkdirat = 287, SYS_mknodat = 288, SYS_fchownat = 289,
	SYS_fchmodat = 297, SYS_unlinkat = 292,
	SYS_linkat = 294, SYS_symlinkat = 295, SYS_readlinkat = 296,
	SYS_utimensat = 304, SYS_renameat2 = 357, SYS_copy_file_range = 379,
	SYS_statx = 383,
};
enum { O_LARGEFILE = 0200000, O_DIRECTORY = 040000, O_NOFOLLOW = 0100000 };

/*
 * agent() finds its constants through r2, which nobody has set yet. It also
 * saves the link register in its caller's frame, so it needs one.
 */
START("lis 2, .TOC.@ha\n"
      "addi 2, 2, .TOC.@l\n"
      "mr 3, 1\n"
      "clrrdi 1, 1, 4\n"
      "li 0, 0\n"
      "stdu 0, -32(1)\n"
      "mtlr 0\n"
      "b agent\n");

/* An error sets the summary overflow bit and returns errno without its sign. */
UNUSED static long syscall4(long nr, long a, long b, long c, long d)
{
	register long r0 __asm__("r0") = nr;
	register long r3 __asm__("r3") = a;
	register long r4 __asm__("r4") = b;
	register long r5 __asm__("r5") = c;
	register long r6 __asm__("r6") = d;
	__asm__ volatile("sc\n\t"
			 "bns+ 1f\n\t"
			 "neg %1, %1\n"
			 "1:"
			 : "+r"(r0), "+r"(r3), "+r"(r4), "+r"(r5), "+r"(r6)
			 :
			 : "r7", "r8", "r9", "r10", "r11", "r12", "cr0", "ctr", "xer", "memory");
	return r3;
}

UNUSED static long syscall5(long nr, long a, long b, long c, long d, long e)
{
	register long r0 __asm__("r0") = nr;
	register long r3 __asm__("r3") = a;
	register long r4 __asm__("r4") = b;
	register long r5 __asm__("r5") = c;
	register long r6 __asm__("r6") = d;
	register long r7 __asm__("r7") = e;
	register long r8 __asm__("r8") = 0;
	__asm__ volatile("sc\n\t"
			 "bns+ 1f\n\t"
			 "neg %1, %1\n"
			 "1:"
			 : "+r"(r0), "+r"(r3), "+r"(r4), "+r"(r5), "+r"(r6), "+r"(r7), "+r"(r8)
			 :
			 : "r9", "r10", "r11", "r12", "cr0", "ctr", "xer", "memory");
	return r3;
}

#elif defined(__riscv) && __riscv_xlen == 64

enum { SYS_openat = 56, SYS_close = 57, SYS_write = 64, SYS_exit = 93 };
enum {
	SYS_fsetxattr = 7, SYS_fgetxattr = 10, SYS_flistxattr = 13, SYS_mknodat = 33,
	SYS_mkdirat = 34, SYS_unlinkat = 35, SYS_symlinkat = 36, SYS_linkat = 37,
	SYS_ftruncate = 46, SYS_fchmod = 52, SYS_fchownat = 54,
	SYS_fchmodat = 53, SYS_fchown = 55,
	SYS_getdents64 = 61, SYS_lseek = 62, SYS_read = 63, SYS_readlinkat = 78,
	SYS_utimensat = 88, SYS_umask = 166, SYS_munmap = 215, SYS_mmap = 222,
	SYS_renameat2 = 276, SYS_copy_file_range = 285, SYS_statx = 291,
};
enum { O_LARGEFILE = 0100000, O_DIRECTORY = 0200000, O_NOFOLLOW = 0400000 };

/* gp stays unset: build.sh links without the relaxations that would use it. */
START("li s0, 0\n"
      "li ra, 0\n"
      "mv a0, sp\n"
      "andi sp, sp, -16\n"
      "tail agent\n");

UNUSED static long syscall4(long nr, long a, long b, long c, long d)
{
	register long a7 __asm__("a7") = nr;
	register long a0 __asm__("a0") = a;
	register long a1 __asm__("a1") = b;
	register long a2 __asm__("a2") = c;
	register long a3 __asm__("a3") = d;
	__asm__ volatile("ecall"
			 : "+r"(a0)
			 : "r"(a7), "r"(a1), "r"(a2), "r"(a3)
			 : "memory");
	return a0;
}

UNUSED static long syscall5(long nr, long a, long b, long c, long d, long e)
{
	register long a7 __asm__("a7") = nr;
	register long a0 __asm__("a0") = a;
	register long a1 __asm__("a1") = b;
	register long a2 __asm__("a2") = c;
	register long a3 __asm__("a3") = d;
	register long a4 __asm__("a4") = e;
	register long a5 __asm__("a5") = 0;
	__asm__ volatile("ecall"
			 : "+r"(a0)
			 : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5)
			 : "memory");
	return a0;
}

#elif defined(__s390x__)

enum { SYS_exit = 1, SYS_write = 4, SYS_close = 6, SYS_openat = 288 };
enum {
	SYS_read = 3, SYS_lseek = 19, SYS_umask = 60, SYS_mmap = 90, SYS_munmap = 91,
	SYS_ftruncate = 93, SYS_fchmod = 94, SYS_fchown = 207, SYS_getdents64 = 220,
	SYS_fsetxattr = 226, SYS_fgetxattr = 229, SYS_flistxattr = 232,
	SYS_mkdirat = 289, SYS_mknodat = 290, SYS_fchownat = 291,
	SYS_fchmodat = 299, SYS_unlinkat = 294,
	SYS_linkat = 296, SYS_symlinkat = 297, SYS_readlinkat = 298,
	SYS_utimensat = 315, SYS_renameat2 = 347, SYS_copy_file_range = 375,
	SYS_statx = 379,
};
enum { O_LARGEFILE = 0100000, O_DIRECTORY = 0200000, O_NOFOLLOW = 0400000 };

/* A callee saves its registers in the 160 bytes above its caller's r15. */
START("lgr %r2, %r15\n"
      "aghi %r15, -160\n"
      "xc 0(8,%r15), 0(%r15)\n"
      "jg agent\n");

UNUSED static long syscall4(long nr, long a, long b, long c, long d)
{
	register long r1 __asm__("r1") = nr;
	register long r2 __asm__("r2") = a;
	register long r3 __asm__("r3") = b;
	register long r4 __asm__("r4") = c;
	register long r5 __asm__("r5") = d;
	__asm__ volatile("svc 0"
			 : "+r"(r2)
			 : "r"(r1), "r"(r3), "r"(r4), "r"(r5)
			 : "memory");
	return r2;
}

UNUSED static long syscall5(long nr, long a, long b, long c, long d, long e)
{
	register long r1 __asm__("r1") = nr;
	register long r2 __asm__("r2") = a;
	register long r3 __asm__("r3") = b;
	register long r4 __asm__("r4") = c;
	register long r5 __asm__("r5") = d;
	register long r6 __asm__("r6") = e;
	register long r7 __asm__("r7") = 0;
	__asm__ volatile("svc 0"
			 : "+r"(r2)
			 : "r"(r1), "r"(r3), "r"(r4), "r"(r5), "r"(r6), "r"(r7)
			 : "memory");
	return r2;
}

#else
#error "the agents have no system calls for this architecture"
#endif
