/*
 * SHA-256 (FIPS 180-4) in plain C, for freestanding programs.
 */

struct sha256 {
	unsigned state[8];
	unsigned long long bytes;
	unsigned char block[64];
};

#define ROTATE(x, n) ((x) >> (n) | (x) << (32 - (n)))

static const unsigned sha256_constants[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
	0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
	0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
	0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* One round. The caller rotates the names, so that no value has to move. */
#define ROUND(a, b, c, d, e, f, g, h, i)                                            \
	do {                                                                        \
		unsigned t = h + (ROTATE(e, 6) ^ ROTATE(e, 11) ^ ROTATE(e, 25)) +   \
			     (g ^ (e & (f ^ g))) + sha256_constants[i] + w[(i)&15]; \
		d += t;                                                             \
		h = t + (ROTATE(a, 2) ^ ROTATE(a, 13) ^ ROTATE(a, 22)) +            \
		    ((a & b) | (c & (a | b)));                                      \
	} while (0)

#define SCHEDULE(i)                                                                          \
	(w[(i)&15] += (ROTATE(w[((i) + 1) & 15], 7) ^ ROTATE(w[((i) + 1) & 15], 18) ^        \
		       w[((i) + 1) & 15] >> 3) +                                             \
		      w[((i) + 9) & 15] +                                                    \
		      (ROTATE(w[((i) + 14) & 15], 17) ^ ROTATE(w[((i) + 14) & 15], 19) ^     \
		       w[((i) + 14) & 15] >> 10))

__attribute__((optimize("O2"))) static void sha256_compress(unsigned *state, const unsigned char *p)
{
	unsigned w[16];
	unsigned a = state[0], b = state[1], c = state[2], d = state[3];
	unsigned e = state[4], f = state[5], g = state[6], h = state[7];

	for (unsigned i = 0; i < 16; i++, p += 4)
		w[i] = (unsigned)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
	for (unsigned i = 0; i < 64; i += 8) {
		if (i >= 16)
			for (unsigned j = i; j < i + 8; j++)
				SCHEDULE(j);
		ROUND(a, b, c, d, e, f, g, h, i);
		ROUND(h, a, b, c, d, e, f, g, i + 1);
		ROUND(g, h, a, b, c, d, e, f, i + 2);
		ROUND(f, g, h, a, b, c, d, e, i + 3);
		ROUND(e, f, g, h, a, b, c, d, i + 4);
		ROUND(d, e, f, g, h, a, b, c, i + 5);
		ROUND(c, d, e, f, g, h, a, b, i + 6);
		ROUND(b, c, d, e, f, g, h, a, i + 7);
	}
	state[0] += a, state[1] += b, state[2] += c, state[3] += d;
	state[4] += e, state[5] += f, state[6] += g, state[7] += h;
}

static void sha256_init(struct sha256 *s)
{
	static const unsigned initial[8] = {
		0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
		0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
	};
	for (unsigned i = 0; i < 8; i++)
		s->state[i] = initial[i];
	s->bytes = 0;
}

static void sha256_update(struct sha256 *s, const void *data, unsigned long n)
{
	const unsigned char *p = data;
	unsigned have = s->bytes & 63;

	s->bytes += n;
	while (n && (have || n < 64)) {
		s->block[have++] = *p++;
		n--;
		if (have == 64) {
			sha256_compress(s->state, s->block);
			have = 0;
		}
	}
	for (; n >= 64; n -= 64, p += 64)
		sha256_compress(s->state, p);
	while (n--)
		s->block[have++] = *p++;
}

static void sha256_final(struct sha256 *s, unsigned char out[32])
{
	static const unsigned char one = 0x80, zero = 0;
	unsigned long long bits = s->bytes << 3;
	unsigned char length[8];

	sha256_update(s, &one, 1);
	while ((s->bytes & 63) != 56)
		sha256_update(s, &zero, 1);
	for (unsigned i = 0; i < 8; i++)
		length[i] = bits >> (56 - 8 * i);
	sha256_update(s, length, 8);
	for (unsigned i = 0; i < 32; i++)
		out[i] = s->state[i / 4] >> (24 - 8 * (i & 3));
}
