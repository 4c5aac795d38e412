/* Passes over candidates and states in C: what ibpo/allocation/passes.py says in numpy, the same to the last bit.

   Compiled without contraction of products and sums (-ffp-contract=off), so that every operation rounds as numpy's
   does; where a sum's order could count, it is exact. No allocation of memory, no state, no Python: any thread may call.
   Letters as in Python: C candidates, P problems, K budgets. Rows of a problem stand together: `width` rows each, or, where
   width is 0, from begin[p] to begin[p + 1] (the last to num_rows). */

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef _WIN32
#define API __declspec(dllexport)
#else
#define API __attribute__((visibility("default")))
#endif

#define CHUNK 2048

/* ibpo/allocation/kernels.py asks. */
API int64_t version(void) { return 1; }

typedef struct {
    const double *utility; /* [C] */
    const double *cost;    /* [K][stride] */
    const uint64_t *tie;   /* [C] or NULL */
    const int64_t *begin;  /* [P], where width is 0 */
    const double *price;   /* [K] */
    int64_t stride, num_rows, num_problems, width, num_costs;
} Block;

static inline int64_t first_row(const Block *b, int64_t p) { return b->width ? p * b->width : b->begin[p]; }

static inline int64_t end_row(const Block *b, int64_t p) {
    if (b->width) return (p + 1) * b->width;
    return p + 1 < b->num_problems ? b->begin[p + 1] : b->num_rows;
}

/* score = utility - price . cost of rows first .. first + n, term by term in the order of the costs */
static void scores(const Block *b, int64_t first, int64_t n, double *score) {
    memcpy(score, b->utility + first, n * sizeof(double));
    for (int64_t k = 0; k < b->num_costs; k++) {
        const double y = b->price[k], *cost = b->cost + k * b->stride + first;
        if (y != 0.0)
            for (int64_t i = 0; i < n; i++) score[i] -= y * cost[i];
    }
}

/* Of two rows of equal scores: is the second the cheaper, by the first cost that differs, or else before by `tie`? */
static int is_cheaper(const Block *b, int64_t row, int64_t other) {
    for (int64_t k = 0; k < b->num_costs; k++) {
        const double *cost = b->cost + k * b->stride;
        if (cost[other] != cost[row]) return cost[other] < cost[row];
    }
    return b->tie && b->tie[other] < b->tie[row];
}

/* best[p]: the row of the largest score, of equal ones the cheapest; top[p]: that score. Then, if `near` is given, the
   other rows whose regret top - score is at most `reach`, and their regrets; returns how many. */
API int64_t best_rows(const Block *b, int64_t *best, double *top, double reach, int64_t *near, double *regret) {
    double buffer[CHUNK];
    int64_t begin = 0, end = 0, found = 0;
    for (int64_t p = 0; p < b->num_problems; p++) {
        const int64_t first = first_row(b, p), last = end_row(b, p);
        double *score = buffer + (first - begin);
        if (last > end) { /* the next chunk of whole problems; a problem of more rows than a chunk is walked alone */
            begin = first;
            end = last;
            for (int64_t q = p + 1; q < b->num_problems && end_row(b, q) - begin <= CHUNK; q++) end = end_row(b, q);
            score = buffer;
            if (end - begin <= CHUNK) scores(b, begin, end - begin, buffer);
        }
        const int whole = end - begin <= CHUNK;
        int64_t at = first;
        double most = 0.0, one;
        for (int64_t r = first; r < last; r++) {
            if (whole) one = score[r - first];
            else scores(b, r, 1, &one);
            if (r == first || one > most || (one == most && is_cheaper(b, at, r))) at = r, most = one;
        }
        best[p] = at;
        top[p] = most;
        if (!near) continue;
        for (int64_t r = first; r < last; r++) {
            if (whole) one = score[r - first];
            else scores(b, r, 1, &one);
            if (most - one <= reach && r != at) near[found] = r, regret[found++] = most - one;
        }
    }
    return found;
}

/* Rows that can be best somewhere in a box of prices, price +- half, of problems with several such; the best rows of the
   other problems. regret_c <= sum_k half_k |cost_kc - cost_k,best|, with room for rounding. */
API void open_rows(const Block *b, const double *half, double dust, const int64_t *best, const double *top, int64_t *open,
                   int64_t *settled, int64_t *counts) {
    counts[0] = counts[1] = 0;
    for (int64_t p = 0; p < b->num_problems; p++) {
        const int64_t first = first_row(b, p), last = end_row(b, p), before = counts[0], at = best[p];
        for (int64_t r = first; r < last; r++) {
            double one, apart = 0.0;
            scores(b, r, 1, &one);
            for (int64_t k = 0; k < b->num_costs; k++) {
                const double *cost = b->cost + k * b->stride;
                apart += half[k] * fabs(cost[r] - cost[at]);
            }
            if (top[p] - one <= apart * (1 + 1e-9) + dust) open[counts[0]++] = r;
        }
        if (counts[0] - before == 1) counts[0] = before, settled[counts[1]++] = at;
    }
}

/* The exact sum of values[rows[i]] (of values[i] where rows is NULL), as at most 136 floats (Neal, "Fast exact summation
   using small and large superaccumulators", 2015): digits of 32 bits, carried every 1,024 terms. False for one that is
   not finite. */
API int64_t exact_parts(const double *values, const int64_t *rows, int64_t n, double *parts) {
    int64_t digit[68] = {0}, found = 0;
    for (int64_t i = 0; i < n; i++) {
        const double x = values[rows ? rows[i] : i];
        uint64_t bits;
        memcpy(&bits, &x, 8);
        int64_t exponent = (bits >> 52) & 2047;
        uint64_t mantissa = bits & ((1ULL << 52) - 1);
        if (exponent == 2047) return -1;
        if (exponent) mantissa |= 1ULL << 52;
        else exponent = 1;
        const int64_t place = exponent >> 5, shift = exponent & 31;
        const int64_t low = (int64_t)((mantissa << shift) & 0xffffffffULL);
        const int64_t high = (int64_t)(shift ? mantissa >> (32 - shift) : mantissa >> 32);
        if (bits >> 63) digit[place] -= low, digit[place + 1] -= high;
        else digit[place] += low, digit[place + 1] += high;
        if ((i & 511) == 511) /* |digit| stays below 512 * 2^53 */
            for (int k = 0; k < 67; k++) {
                const int64_t carry = digit[k] / (1LL << 32); /* towards 0: nothing is borrowed from the digits above */
                digit[k] -= carry * (1LL << 32), digit[k + 1] += carry;
            }
    }
    for (int k = 0; k < 68; k++) { /* bit 0 of digit k is 2^(32 k - 1075) */
        const int64_t high = digit[k] / (1LL << 32), low = digit[k] - high * (1LL << 32);
        if (low) parts[found++] = ldexp((double)low, 32 * k - 1075);
        if (high) parts[found++] = ldexp((double)high, 32 * k - 1043);
    }
    return found;
}
