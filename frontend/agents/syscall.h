/*
 * What the agent needs of each architecture: four system call numbers,
 * syscall4, and _start, which passes the initial stack pointer to agent().
 *
 * syscall4 returns the kernel's answer, or -errno. openat stands for open,
 * which arm64 and riscv64 do not have.
 */

#define START(...) __asm__(".globl _start\n.type _start, %function\n_start:\n" __VA_ARGS__)

#if defined(__x86_64__)

enum { SYS_write = 1, SYS_close = 3, SYS_exit = 60, SYS_openat = 257 };

START("xor %ebp, %ebp\n"
      "mov %rsp, %rdi\n"
      "and $-16, %rsp\n"
      "call agent\n");

static long syscall4(long nr, long a, long b, long c, long d)
{
	long ret;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return ret;
}

#elif defined(__i386__)

enum { SYS_exit = 1, SYS_write = 4, SYS_close = 6, SYS_openat = 295 };

/* The argument goes on the stack; 12 bytes keep it 16-byte aligned at the call. */
START("xor %ebp, %ebp\n"
      "mov %esp, %eax\n"
      "and $-16, %esp\n"
      "sub $12, %esp\n"
      "push %eax\n"
      "call agent\n");

static long syscall4(long nr, long a, long b, long c, long d)
{
	long ret;
	__asm__ volatile("int $0x80"
			 : "=a"(ret)
			 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d)
			 : "memory");
	return ret;
}

#elif defined(__aarch64__)

enum { SYS_openat = 56, SYS_close = 57, SYS_write = 64, SYS_exit = 93 };

/* The kernel keeps sp 16-byte aligned. */
START("mov x29, #0\n"
      "mov x30, #0\n"
      "mov x0, sp\n"
      "b agent\n");

static long syscall4(long nr, long a, long b, long c, long d)
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

#elif defined(__arm__) && defined(__ARM_EABI__)

enum { SYS_exit = 1, SYS_write = 4, SYS_close = 6, SYS_openat = 322 };

START("mov r11, #0\n"
      "mov lr, #0\n"
      "mov r0, sp\n"
      "bic sp, sp, #7\n"
      "b agent\n");

static long syscall4(long nr, long a, long b, long c, long d)
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

#elif defined(__powerpc64__) && _CALL_ELF == 2

enum { SYS_exit = 1, SYS_write = 4, SYS_close = 6, SYS_openat = 286 };

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
static long syscall4(long nr, long a, long b, long c, long d)
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

#elif defined(__riscv) && __riscv_xlen == 64

enum { SYS_openat = 56, SYS_close = 57, SYS_write = 64, SYS_exit = 93 };

/* gp stays unset: build.sh links without the relaxations that would use it. */
START("li s0, 0\n"
      "li ra, 0\n"
      "mv a0, sp\n"
      "andi sp, sp, -16\n"
      "tail agent\n");

static long syscall4(long nr, long a, long b, long c, long d)
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

#elif defined(__s390x__)

enum { SYS_exit = 1, SYS_write = 4, SYS_close = 6, SYS_openat = 288 };

/* A callee saves its registers in the 160 bytes above its caller's r15. */
START("lgr %r2, %r15\n"
      "aghi %r15, -160\n"
      "xc 0(8,%r15), 0(%r15)\n"
      "jg agent\n");

static long syscall4(long nr, long a, long b, long c, long d)
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

#else
#error "the agent has no system calls for this architecture"
#endif
