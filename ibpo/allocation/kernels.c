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
API int64_t version(void) { return 2; }

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

/* The largest of n >= 1 scores, and the first place where it is; returns how often it is there. No branch depends on the
   scores. */
static inline int64_t largest(const double *score, int64_t n, double *most, int64_t *where) {
    double top = score[0];
    int64_t ties = 0, at = 0;
    for (int64_t i = 1; i < n; i++) top = score[i] > top ? score[i] : top;
    for (int64_t i = n - 1; i >= 0; i--) {
        const int hit = score[i] == top;
        ties += hit;
        at = hit ? i : at;
    }
    *most = top, *where = at;
    return ties;
}

/* best[p]: the row of the largest score, of equal ones the cheapest; top[p]: that score. Then, if `near` is given, more
   rows, and their regrets, top - score; returns how many. Without `half`: the others of a regret of `reach` at most.
   With it: all rows that can be best somewhere in the box price +- half, where these are several; within the box a score
   moves against the best one's by at most sum_k half_k |cost_k - cost_k,best|. */
API int64_t best_rows(const Block *b, int64_t *best, double *top, double reach, const double *half, int64_t *near,
                      double *regret) {
    double buffer[CHUNK];
    int64_t begin = 0, end = 0, found = 0;
    for (int64_t p = 0; p < b->num_problems; p++) {
        const int64_t first = first_row(b, p), last = end_row(b, p), n = last - first;
        if (last > end) { /* the scores of the next chunk of whole problems */
            begin = first, end = last;
            if (b->width) {
                int64_t more = b->num_problems - p;
                if (more > CHUNK / b->width) more = CHUNK / b->width;
                end = begin + (more > 1 ? more : 1) * b->width;
            } else
                for (int64_t q = p + 1; q < b->num_problems && end_row(b, q) - begin <= CHUNK; q++) end = end_row(b, q);
            if (end - begin <= CHUNK) scores(b, begin, end - begin, buffer);
        }
        const int whole = end - begin <= CHUNK; /* a problem of more rows than a chunk is walked row by row */
        const double *score = buffer + (first - begin);
        int64_t at, ties;
        double most, one;
        if (whole) {
            ties = n == 8 ? largest(score, 8, &most, &at) : n == 4 ? largest(score, 4, &most, &at)
                                                                   : largest(score, n, &most, &at);
            at += first;
            if (ties > 1)
                for (int64_t r = at + 1; r < last; r++)
                    if (score[r - first] == most && is_cheaper(b, at, r)) at = r;
        } else {
            scores(b, first, 1, &most);
            at = first;
            for (int64_t r = first + 1; r < last; r++) {
                scores(b, r, 1, &one);
                if (one > most || (one == most && is_cheaper(b, at, r))) at = r, most = one;
            }
        }
        best[p] = at;
        top[p] = most;
        if (!near) continue;
        const int64_t before = found;
        const double dust = 1e-12 * (1.0 + fabs(most));
        for (int64_t r = first; r < last; r++) {
            if (whole) one = score[r - first];
            else scores(b, r, 1, &one);
            int inside;
            if (half) {
                double apart = 0.0;
                for (int64_t k = 0; k < b->num_costs; k++)
                    apart += half[k] * fabs(b->cost[k * b->stride + r] - b->cost[k * b->stride + at]);
                inside = most - one <= apart * (1 + 1e-9) + dust;
            } else
                inside = (most - one <= reach) & (r != at);
            near[found] = r, regret[found] = most - one;
            found += inside;
        }
        if (half && found == before + 1) found = before;
    }
    return found;
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

/* A stable counting sort: order[i] is the row that comes i-th by ids, all of which are in low .. low + span - 1.
   place `[span + 1]` has to be 0 throughout; afterwards place[j] is where id low + j ends. */
API void sorted_rows(const int64_t *ids, int64_t n, int64_t low, int64_t span, int64_t *place, int64_t *order) {
    for (int64_t i = 0; i < n; i++) place[ids[i] - low + 1]++;
    for (int64_t j = 0; j < span; j++) place[j + 1] += place[j];
    for (int64_t i = 0; i < n; i++) order[place[ids[i] - low]++] = i;
}
