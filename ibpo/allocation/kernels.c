/* Passes over candidates and states in C: what ibpo/allocation/passes.py says in numpy, the same to the last bit.

   Compiled without contraction of products and sums (-ffp-contract=off), so that every operation rounds as numpy's
   does; where a sum's order could count, it is exact. No allocation of memory, no state, no Python: any thread may call.
   Letters as in Python: C candidates, P problems, K budgets. Rows of a problem stand together: `width` rows each, or, where
   width is 0, from begin[p] to begin[p + 1] (the last to num_rows). */

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#ifdef _WIN32
#define API __declspec(dllexport)
#else
#define API __attribute__((visibility("default")))
#endif

#define CHUNK 2048

/* ibpo/allocation/kernels.py asks. */
API int64_t version(void) { return 10; }

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
static inline void scores(const Block *b, int64_t first, int64_t n, double *score) {
    memcpy(score, b->utility + first, n * sizeof(double));
    for (int64_t k = 0; k < b->num_costs; k++) {
        const double y = b->price[k], *cost = b->cost + k * b->stride + first;
        if (y != 0.0)
            for (int64_t i = 0; i < n; i++) score[i] -= y * cost[i];
    }
}

/* Two rows have equal scores: is the second the cheaper, by the first cost that differs, or else before by `tie`? */
static int is_cheaper(const Block *b, int64_t row, int64_t other) {
    for (int64_t k = 0; k < b->num_costs; k++) {
        const double *cost = b->cost + k * b->stride;
        if (cost[other] != cost[row]) return cost[other] < cost[row];
    }
    return b->tie && b->tie[other] < b->tie[row];
}

enum { FEW = 16 }; /* rows of a problem that are looked at together, a bit for each */

#ifdef __SSE2__
/* All bits n times from place FEW - n on, then none. */
static const int64_t INSIDE[2 * FEW] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

/* The largest of n scores in `pairs` pairs, and where it is. No branch depends on the scores. */
static inline uint32_t where_largest(const double *score, int64_t n, int pairs, double *most) {
    const __m128d none = _mm_set1_pd(-INFINITY);
    __m128d s[FEW / 2], top = none;
    uint32_t mask = 0;
    for (int i = 0; i < pairs; i++) {
        s[i] = _mm_loadu_pd(score + 2 * i);
        if (n != 2 * pairs) {
            const __m128d in = _mm_castsi128_pd(_mm_loadu_si128((const __m128i *)(INSIDE + FEW - n + 2 * i)));
            s[i] = _mm_or_pd(_mm_and_pd(in, s[i]), _mm_andnot_pd(in, none));
        }
        top = _mm_max_pd(s[i], top);
    }
    top = _mm_max_pd(top, _mm_shuffle_pd(top, top, 1));
    for (int i = 0; i < pairs; i++) mask |= (uint32_t)_mm_movemask_pd(_mm_cmpeq_pd(s[i], top)) << 2 * i;
    *most = _mm_cvtsd_f64(top);
    return mask & ((1u << n) - 1);
}

/* Where the regret is `reach` at most; and where it is no more than a box of prices makes up for. */
static inline uint32_t where_near(const double *score, int64_t n, int pairs, double most, double reach) {
    const __m128d top = _mm_set1_pd(most), end = _mm_set1_pd(reach);
    uint32_t mask = 0;
    for (int i = 0; i < pairs; i++)
        mask |= (uint32_t)_mm_movemask_pd(_mm_cmple_pd(_mm_sub_pd(top, _mm_loadu_pd(score + 2 * i)), end)) << 2 * i;
    return mask & ((1u << n) - 1);
}

static inline uint32_t where_open(const Block *b, const double *half, const double *score, int64_t first, int64_t n,
                                  int pairs, int64_t at, double most, double dust) {
    const __m128d top = _mm_set1_pd(most), sign = _mm_set1_pd(-0.0);
    const __m128d wider = _mm_set1_pd(1 + 1e-9), more = _mm_set1_pd(dust);
    uint32_t mask = 0;
    for (int i = 0; i < pairs; i++) {
        __m128d apart = _mm_setzero_pd();
        for (int64_t k = 0; k < b->num_costs; k++) {
            const double *cost = b->cost + k * b->stride;
            const __m128d away = _mm_sub_pd(_mm_loadu_pd(cost + first + 2 * i), _mm_set1_pd(cost[at]));
            apart = _mm_add_pd(apart, _mm_mul_pd(_mm_set1_pd(half[k]), _mm_andnot_pd(sign, away)));
        }
        apart = _mm_add_pd(_mm_mul_pd(apart, wider), more);
        mask |= (uint32_t)_mm_movemask_pd(_mm_cmple_pd(_mm_sub_pd(top, _mm_loadu_pd(score + 2 * i)), apart)) << 2 * i;
    }
    return mask & ((1u << n) - 1);
}

/* All bits of the pairs of rows whose mark is 0, of 8 rows (4 pairs) or 16. */
static inline __m128i free_marks(const uint8_t *mark, int pairs) {
    const __m128i here = pairs == 4 ? _mm_loadl_epi64((const __m128i *)mark) : _mm_loadu_si128((const __m128i *)mark);
    return _mm_cmpeq_epi8(here, _mm_setzero_si128());
}

/* The largest utility of the n rows whose mark is 0, and of the others; -inf where there is none. */
static inline __m128d best_of_two(const double *utility, const uint8_t *mark, int64_t n, int pairs) {
    const __m128d none = _mm_set1_pd(-INFINITY);
    const __m128i bytes = free_marks(mark, pairs);
    __m128d first = none, second = none;
    for (int half = 0; half < pairs / 4; half++) {
        const __m128i words = half ? _mm_unpackhi_epi8(bytes, bytes) : _mm_unpacklo_epi8(bytes, bytes);
        const __m128i low = _mm_unpacklo_epi16(words, words), high = _mm_unpackhi_epi16(words, words);
        const __m128i is[4] = {_mm_unpacklo_epi32(low, low), _mm_unpackhi_epi32(low, low), _mm_unpacklo_epi32(high, high),
                               _mm_unpackhi_epi32(high, high)};
        for (int i = 0; i < 4; i++) {
            const int pair = 4 * half + i;
            __m128d u = _mm_loadu_pd(utility + 2 * pair);
            if (n != 2 * pairs) {
                const __m128d in = _mm_castsi128_pd(_mm_loadu_si128((const __m128i *)(INSIDE + FEW - n + 2 * pair)));
                u = _mm_or_pd(_mm_and_pd(in, u), _mm_andnot_pd(in, none));
            }
            const __m128d apart = _mm_and_pd(_mm_xor_pd(u, none), _mm_castsi128_pd(is[i])); /* else 0 */
            first = _mm_max_pd(_mm_xor_pd(none, apart), first), second = _mm_max_pd(_mm_xor_pd(u, apart), second);
        }
    }
    return _mm_max_pd(_mm_unpacklo_pd(first, second), _mm_unpackhi_pd(first, second));
}

/* All bits of the bytes of 8 rows whose utility is the chosen one. */
static inline __m128i where_chosen(const double *utility, __m128d chosen) {
    __m128i is[4];
    for (int i = 0; i < 4; i++) is[i] = _mm_castpd_si128(_mm_cmpeq_pd(_mm_loadu_pd(utility + 2 * i), chosen));
    const __m128i words = _mm_packs_epi32(_mm_packs_epi32(is[0], is[1]), _mm_packs_epi32(is[2], is[3]));
    return _mm_packs_epi16(words, words);
}
#else
static inline uint32_t where_largest(const double *score, int64_t n, int pairs, double *most) {
    double top = score[0];
    uint32_t mask = 0;
    (void)pairs;
    for (int64_t i = 1; i < n; i++) top = score[i] > top ? score[i] : top;
    for (int64_t i = 0; i < n; i++) mask |= (uint32_t)(score[i] == top) << i;
    *most = top;
    return mask;
}

static inline uint32_t where_near(const double *score, int64_t n, int pairs, double most, double reach) {
    uint32_t mask = 0;
    (void)pairs;
    for (int64_t i = 0; i < n; i++) mask |= (uint32_t)(most - score[i] <= reach) << i;
    return mask;
}

static inline uint32_t where_open(const Block *b, const double *half, const double *score, int64_t first, int64_t n,
                                  int pairs, int64_t at, double most, double dust) {
    uint32_t mask = 0;
    (void)pairs;
    for (int64_t i = 0; i < n; i++) {
        double apart = 0.0;
        for (int64_t k = 0; k < b->num_costs; k++)
            apart += half[k] * fabs(b->cost[k * b->stride + first + i] - b->cost[k * b->stride + at]);
        mask |= (uint32_t)(most - score[i] <= apart * (1 + 1e-9) + dust) << i;
    }
    return mask;
}
#endif

/* best[p]: the row of the largest score, of equal ones the cheapest; top[p]: that score. Then, if `near` is given, more
   rows, and their regrets, top - score; returns how many. Without `half`: the others of a regret of `reach` at most.
   With it: all rows that can be best somewhere in the box price +- half, where these are several; within the box a score
   moves against the best one's by at most sum_k half_k |cost_k - cost_k,best|. */
API int64_t best_rows(const Block *b, int64_t *best, double *top, double reach, const double *half, int64_t *near,
                      double *regret) {
    double buffer[CHUNK + FEW]; /* the last problem of a chunk is looked at with what stands behind it, unused */
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
            if (end - begin <= CHUNK) {
                scores(b, begin, end - begin, buffer);
                memset(buffer + (end - begin), 0, FEW * sizeof(double));
            }
        }
        const int whole = end - begin <= CHUNK; /* a problem of more rows than a chunk is walked row by row */
        const double *score = buffer + (first - begin);
        const int few = whole && n <= FEW && (n == 8 || first + FEW <= b->num_rows);
        int64_t at = first;
        double most, one;
        if (few) {
            uint32_t ties = n == 8 ? where_largest(score, 8, 4, &most) : where_largest(score, n, FEW / 2, &most);
            ties |= ties == 0; /* where scores are no numbers */
            at += __builtin_ctz(ties);
            for (ties &= ties - 1; ties; ties &= ties - 1)
                if (is_cheaper(b, at, first + __builtin_ctz(ties))) at = first + __builtin_ctz(ties);
        } else {
            if (whole) most = score[0];
            else scores(b, first, 1, &most);
            for (int64_t r = first + 1; r < last; r++) {
                if (whole) one = score[r - first];
                else scores(b, r, 1, &one);
                if (one > most || (one == most && is_cheaper(b, at, r))) at = r, most = one;
            }
        }
        best[p] = at;
        top[p] = most;
        if (!near) continue;
        const double dust = 1e-12 * (1.0 + fabs(most));
        if (few) {
            uint32_t inside;
            if (half) {
                inside = n == 8 ? where_open(b, half, score, first, 8, 4, at, most, dust)
                                : where_open(b, half, score, first, n, FEW / 2, at, most, dust);
                if (!(inside & (inside - 1))) continue;
            } else
                inside = (n == 8 ? where_near(score, 8, 4, most, reach) : where_near(score, n, FEW / 2, most, reach)) &
                         ~(1u << (at - first));
            for (; inside; inside &= inside - 1) {
                const int64_t i = __builtin_ctz(inside);
                near[found] = first + i, regret[found] = most - score[i], found++;
            }
            continue;
        }
        const int64_t before = found;
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

#define LANES 4

/* Sums in lanes, what rounding took from each (Knuth's two-sum), summed up beside it, and what rounding took from that.
   Where the last are 0, the others are exact together, as they are for decimals of like size; NaN where one is not finite. */
typedef struct {
    double sum[LANES], rest[LANES], lost[LANES];
} Sums;

static void add_all(Sums *to, const double *values, int64_t n) {
    double sum[LANES], rest[LANES], lost[LANES], last[LANES] = {0};
    memcpy(sum, to->sum, sizeof sum), memcpy(rest, to->rest, sizeof rest), memcpy(lost, to->lost, sizeof lost);
    if (n % LANES) memcpy(last, values + n / LANES * LANES, n % LANES * sizeof(double)); /* and zeros */
    for (int64_t i = 0; i < n; i += LANES) {
        const double *from = i + LANES <= n ? values + i : last;
        for (int lane = 0; lane < LANES; lane++) {
            const double x = from[lane], s = sum[lane] + x, part = s - sum[lane];
            const double error = (sum[lane] - (s - part)) + (x - part), r = rest[lane] + error, piece = r - rest[lane];
            lost[lane] += fabs((rest[lane] - (r - piece)) + (error - piece));
            sum[lane] = s, rest[lane] = r;
        }
    }
    memcpy(to->sum, sum, sizeof sum), memcpy(to->rest, rest, sizeof rest), memcpy(to->lost, lost, sizeof lost);
}

/* The exact sum of n values as at most 136 floats: the lanes' where these are exact, else digits of 32 bits, carried every
   512 terms (Neal, "Fast exact summation using small and large superaccumulators", 2015). -1 for one that is not
   finite. */
API int64_t exact_parts(const double *values, int64_t n, double *parts) {
    Sums sums = {{0}, {0}, {0}};
    double lost = 0.0;
    add_all(&sums, values, n);
    for (int i = 0; i < LANES; i++) parts[i] = sums.sum[i], parts[LANES + i] = sums.rest[i], lost += sums.lost[i];
    if (lost == 0.0) return 2 * LANES;
    int64_t digit[68] = {0}, found = 0;
    for (int64_t i = 0; i < n; i++) {
        const double x = values[i];
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

/* The sums of the utilities of the best rows, sums[0], and of each of their costs, sums[1 + k], which have to begin at 0:
   a plane of the dual function (ibpo/allocation/cutting_planes.py) without writing down which rows these are. */
API void best_sums(const Block *b, Sums *sums) {
    enum { MOST = CHUNK / 8 };
    int64_t best[MOST];
    double values[MOST];
    Block part = *b;
    for (int64_t p = 0; p < b->num_problems; p += part.num_problems) {
        const int64_t shift = b->width ? first_row(b, p) : 0, left = b->num_problems - p;
        part.num_problems = left < MOST ? left : MOST;
        part.utility = b->utility + shift, part.cost = b->cost + shift;
        part.begin = b->width ? NULL : b->begin + p;
        part.num_rows = end_row(b, p + part.num_problems - 1) - shift;
        best_rows(&part, best, values, 0.0, NULL, NULL, NULL);
        for (int64_t k = 0; k <= b->num_costs; k++) {
            const double *column = k ? part.cost + (k - 1) * b->stride : part.utility;
            for (int64_t i = 0; i < part.num_problems; i++) values[i] = column[best[i]];
            add_all(&sums[k], values, part.num_problems);
        }
    }
}

/* `best_rows` with a box, without writing down the best rows of the problems that it settles: the sums of their costs,
   settled[k], which have to begin at 0. */
API int64_t open_rows(const Block *b, const double *half, int64_t *near, double *regret, Sums *settled) {
    enum { MOST = CHUNK / 8 };
    int64_t best[MOST], found = 0;
    double values[MOST];
    Block part = *b;
    for (int64_t p = 0; p < b->num_problems; p += part.num_problems) {
        const int64_t shift = b->width ? first_row(b, p) : 0, left = b->num_problems - p;
        part.num_problems = left < MOST ? left : MOST;
        part.utility = b->utility + shift, part.cost = b->cost + shift;
        part.begin = b->width ? NULL : b->begin + p;
        part.num_rows = end_row(b, p + part.num_problems - 1) - shift;
        const int64_t end = found + best_rows(&part, best, values, 0.0, half, near + found, regret);
        int64_t num_settled = 0;
        for (int64_t i = 0, j = found; i < part.num_problems; i++) {
            if (j < end && near[j] < end_row(&part, i))
                for (; j < end && near[j] < end_row(&part, i); j++) near[j] += shift;
            else
                best[num_settled++] = best[i];
        }
        found = end;
        for (int64_t k = 0; k < b->num_costs; k++) {
            const double *column = part.cost + k * b->stride;
            for (int64_t i = 0; i < num_settled; i++) values[i] = column[best[i]];
            add_all(&settled[k], values, num_settled);
        }
    }
    return found;
}

/* Costs less the smallest of their problem, out; that one, and the largest of what is left, of each problem. */
API void shift_costs(const Block *b, const double *cost, double *out, double *least, double *most) {
    for (int64_t p = 0; p < b->num_problems; p++) {
        const int64_t first = first_row(b, p), end = end_row(b, p);
        double low = cost[first], high = cost[first];
#ifdef __SSE2__
        if (end - first == 8) { /* in pairs, without a branch */
            const double *from = cost + first;
            __m128d x[4], l, h;
            for (int i = 0; i < 4; i++) x[i] = _mm_loadu_pd(from + 2 * i);
            l = _mm_min_pd(_mm_min_pd(x[0], x[1]), _mm_min_pd(x[2], x[3]));
            h = _mm_max_pd(_mm_max_pd(x[0], x[1]), _mm_max_pd(x[2], x[3]));
            l = _mm_min_pd(l, _mm_shuffle_pd(l, l, 1)), h = _mm_max_pd(h, _mm_shuffle_pd(h, h, 1));
            for (int i = 0; i < 4; i++) _mm_storeu_pd(out + first + 2 * i, _mm_sub_pd(x[i], l));
            least[p] = _mm_cvtsd_f64(l), most[p] = _mm_cvtsd_f64(_mm_sub_sd(h, l));
            continue;
        }
#endif
        for (int64_t r = first + 1; r < end; r++) low = cost[r] < low ? cost[r] : low, high = cost[r] > high ? cost[r] : high;
        for (int64_t r = first; r < end; r++) out[r] = cost[r] - low;
        least[p] = low, most[p] = high - low;
    }
}

/* The smallest of n numbers, found[0]; the largest, found[1]; their sum, found[2], which is finite only where all are; and,
   where they are of 0 to 2^52, how far they are from whole numbers together, found[3]. */
API void check_numbers(const double *cost, int64_t n, double *found) {
    double sum[LANES] = {0}, off[LANES] = {0}, least[LANES], most[LANES];
    const double grid = 4503599627370496.0; /* 2^52: from there on all floats are whole, so that adding it rounds */
    const int64_t rest = n % LANES;
    for (int j = 0; j < LANES; j++) least[j] = most[j] = cost[0];
#ifdef __SSE2__
    const __m128d by = _mm_set1_pd(grid), sign = _mm_set1_pd(-0.0);
    __m128d s[2] = {_mm_setzero_pd(), _mm_setzero_pd()}, o[2] = {s[0], s[0]}, l[2], m[2];
    l[0] = l[1] = m[0] = m[1] = _mm_set1_pd(cost[0]);
    for (int64_t i = 0; i < n - rest; i += 4)
        for (int j = 0; j < 2; j++) {
            const __m128d x = _mm_loadu_pd(cost + i + 2 * j), near = _mm_sub_pd(_mm_add_pd(x, by), by);
            l[j] = _mm_min_pd(x, l[j]), m[j] = _mm_max_pd(x, m[j]);
            s[j] = _mm_add_pd(s[j], x), o[j] = _mm_add_pd(o[j], _mm_andnot_pd(sign, _mm_sub_pd(near, x)));
        }
    for (int j = 0; j < 2; j++) {
        _mm_storeu_pd(least + 2 * j, l[j]), _mm_storeu_pd(most + 2 * j, m[j]);
        _mm_storeu_pd(sum + 2 * j, s[j]), _mm_storeu_pd(off + 2 * j, o[j]);
    }
    for (int64_t i = n - rest; i < n; i++) {
#else
    for (int64_t i = 0; i < n; i++) {
#endif
        const int64_t j = i % LANES;
        const double x = cost[i];
        most[j] = x > most[j] ? x : most[j], least[j] = x < least[j] ? x : least[j];
        sum[j] += x, off[j] += fabs(((x + grid) - grid) - x);
    }
    found[0] = least[0], found[1] = most[0], found[2] = found[3] = 0.0;
    for (int j = 0; j < LANES; j++) {
        found[0] = least[j] < found[0] ? least[j] : found[0], found[1] = most[j] > found[1] ? most[j] : found[1];
        found[2] += sum[j], found[3] += off[j];
    }
}

/* One row of each problem, hit `[R]`, that has the chosen utility and mark `[P]`: of several that of the smallest `tie`,
   then the first; none where there is none. A mark counts whole, or as whether it is 0. */
API void mark_rows(const Block *b, const uint8_t *mark, int64_t whole, const double *value, const uint8_t *of_problem,
                   uint8_t *hit) {
    for (int64_t p = 0; p < b->num_problems; p++) {
        const int64_t first = first_row(b, p), end = end_row(b, p);
        const double chosen = value[p];
        const uint8_t wanted = of_problem[p];
        int64_t count = 0, one = -1;
#ifdef __SSE2__
        const int64_t n = end - first;
        if (n <= FEW && (n == 8 || first + FEW <= b->num_rows)) { /* what is written behind the problem is not yet looked at */
            const int pairs = n == 8 ? 4 : FEW / 2;
            const __m128d one_of = _mm_set1_pd(chosen);
            __m128i is = where_chosen(b->utility + first, one_of), kept;
            if (n != 8) is = _mm_unpacklo_epi64(is, where_chosen(b->utility + first + 8, one_of));
            if (whole) {
                kept = n == 8 ? _mm_loadl_epi64((const __m128i *)(mark + first)) : _mm_loadu_si128((const __m128i *)(mark + first));
                kept = _mm_cmpeq_epi8(kept, _mm_set1_epi8((char)wanted));
            } else kept = _mm_xor_si128(free_marks(mark + first, pairs), _mm_set1_epi8((char)-wanted));
            is = _mm_and_si128(_mm_and_si128(is, kept), _mm_set1_epi8(1));
            if (n == 8) _mm_storel_epi64((__m128i *)(hit + first), is);
            else _mm_storeu_si128((__m128i *)(hit + first), is);
            const uint32_t bits = (uint32_t)_mm_movemask_epi8(_mm_cmpgt_epi8(is, _mm_setzero_si128())) & ((1u << n) - 1);
            if (!(bits & (bits - 1))) continue;
        }
#endif
        for (int64_t r = first; r < end; r++) {
            const uint8_t is = whole ? mark[r] == wanted : (mark[r] != 0) == wanted;
            count += hit[r] = is & (b->utility[r] == chosen);
        }
        for (int64_t r = first; count > 1 && r < end; r++) {
            if (!hit[r]) continue;
            hit[r] = 0;
            if (one < 0 || (b->tie && b->tie[r] < b->tie[one])) one = r;
        }
        if (one >= 0) hit[one] = 1;
    }
}

/* best `[G][P]`: of each problem the largest utility of each kind, kind[mark] being the kind of a response with that
   mark; -inf where it has none. */
API void best_of_kinds(const Block *b, const uint8_t *mark, const int64_t *kind, int64_t num_kinds, double *best) {
    double most[256];
    if (num_kinds == 2) { /* without the table, which a processor waits for, and without a branch */
        const double none = -INFINITY;
        int64_t far, by_zero = kind[0] == 0;
        memcpy(&far, &none, sizeof far);
        for (int i = 1; i < 256; i++) by_zero &= kind[i] == 1;
        for (int64_t p = 0; p < b->num_problems; p++) {
            double first = none, second = none;
            const int64_t begin = first_row(b, p), end = end_row(b, p);
#ifdef __SSE2__
            const int64_t n = end - begin;
            if (by_zero && n <= FEW && (n == 8 || begin + FEW <= b->num_rows)) {
                const __m128d both = n == 8 ? best_of_two(b->utility + begin, mark + begin, 8, 4)
                                            : best_of_two(b->utility + begin, mark + begin, n, FEW / 2);
                _mm_storel_pd(best + p, _mm_add_pd(both, _mm_setzero_pd())); /* no -0.0 */
                _mm_storeh_pd(best + b->num_problems + p, _mm_add_pd(both, _mm_setzero_pd()));
                continue;
            }
#endif
            for (int64_t r = begin; r < end; r++) {
                const int64_t is = -kind[mark[r]];
                int64_t bits, other;
                double x, y;
                memcpy(&bits, &b->utility[r], sizeof bits);
                other = bits ^ ((bits ^ far) & ~is), bits ^= (bits ^ far) & is;
                memcpy(&x, &bits, sizeof x), memcpy(&y, &other, sizeof y);
                first = x > first ? x : first, second = y > second ? y : second;
            }
            best[p] = first + 0.0, best[b->num_problems + p] = second + 0.0;
        }
        return;
    }
    for (int64_t p = 0; p < b->num_problems; p++) {
        for (int64_t g = 0; g < num_kinds; g++) most[g] = -INFINITY;
        for (int64_t r = first_row(b, p), end = end_row(b, p); r < end; r++) {
            double *here = &most[kind[mark[r]]];
            *here = b->utility[r] > *here ? b->utility[r] : *here;
        }
        for (int64_t g = 0; g < num_kinds; g++) best[g * b->num_problems + p] = most[g] + 0.0; /* no -0.0 */
    }
}

/* gain `[N]`: the best of the kinds of one side less the best of the others, best `[G][N]` less what a kind pays. */
static void gains(const double *best, int64_t n, int64_t num_kinds, const double *paid, const int64_t *side, double *gain) {
    double most[2][CHUNK];
    for (int64_t first = 0; first < n; first += CHUNK) {
        const int64_t m = n - first < CHUNK ? n - first : CHUNK;
        for (int64_t i = 0; i < m; i++) most[0][i] = most[1][i] = -INFINITY;
        for (int64_t g = 0; g < num_kinds; g++) {
            double *top = most[side[g]];
            const double *row = best + g * n + first, pay = paid[g];
            for (int64_t i = 0; i < m; i++) top[i] = row[i] - pay > top[i] ? row[i] - pay : top[i];
        }
        for (int64_t i = 0; i < m; i++) gain[first + i] = most[1][i] - most[0][i];
    }
}

/* The value that `place` of n values are sorted before (Floyd and Rivest): two values of a small sample that it is most
   likely between leave a third of the others. work: n floats. */
static double ranked(const double *values, int64_t n, int64_t place, double *work) {
    enum { SAMPLE = 24, MARGIN = 4 };
    double some[SAMPLE];
    for (int64_t margin = MARGIN;;) {
        const int64_t size = n < SAMPLE ? n : SAMPLE;
        for (int64_t i = 0; i < size; i++) {
            const double x = values[i * n / size];
            int64_t j = i;
            for (; j > 0 && some[j - 1] > x; j--) some[j] = some[j - 1];
            some[j] = x;
        }
        if (size == n) return some[place];
        const int64_t middle = place * size / n;
        double low = middle < margin ? -INFINITY : some[middle - margin];
        double high = middle + margin >= size ? INFINITY : some[middle + margin];
        int64_t below = 0, above = 0, found = 0;
        for (int64_t i = 0; i < n; i++) below += values[i] < low, above += values[i] > high;
        if (place < below) {
            for (int64_t i = 0; i < n; i++) {
                const double x = values[i];
                work[found] = x, found += x < low;
            }
        } else if (place >= n - above) {
            for (int64_t i = 0; i < n; i++) {
                const double x = values[i];
                work[found] = x, found += x > high;
            }
            place -= n - above;
        } else {
            if (low == high) return low;
            for (int64_t i = 0; i < n; i++) {
                const double x = values[i];
                work[found] = x, found += (x >= low) & (x <= high);
            }
            place -= below;
        }
        margin = found < n ? MARGIN : 0; /* nothing was left out: with one value of the sample alone something will be */
        values = work, n = found;
    }
}

/* The one of n values that `place` others are sorted before, found[0], and the one before it, found[1]: -inf for the
   first. work: n floats. */
API void order_statistic(const double *values, int64_t n, int64_t place, double *work, double *found) {
    const double at = found[0] = ranked(values, n, place, work);
    double most = -INFINITY;
    int64_t below = 0;
    for (int64_t i = 0; i < n; i++) {
        const double x = values[i] < at ? values[i] : -INFINITY;
        below += values[i] < at, most = x > most ? x : most;
    }
    found[1] = below < place ? at : most;
}

/* The price at which between `low` and `high` of the gains are above it: the one nearest to 0 (passes.py, _price). */
static double price_of(const double *gain, int64_t n, double low, double high, double *work) {
    int64_t positive = 0, rank;
    for (int64_t i = 0; i < n; i++) positive += gain[i] > 0.0;
    if ((double)positive > high) rank = high > 0.0 ? (int64_t)high : 0;
    else if ((double)positive < low) rank = (low < (double)n ? (int64_t)ceil(low) : n) - 1;
    else return 0.0;
    const double found = ranked(gain, n, n - 1 - rank, work) + 0.0; /* no -0.0 */
    if (fabs(found) < INFINITY) return found;
    double end = 0.0; /* of the finite gains the one that is furthest on that side */
    for (int64_t i = 0; i < n; i++)
        if (fabs(gain[i]) < INFINITY) end = (found > 0.0 ? gain[i] > end : gain[i] < end) ? gain[i] : end;
    return end;
}

/* G kinds in K shares: best `[G][N]`, uses `[K][G]`. */
typedef struct {
    const double *best, *uses, *low, *high; /* low, high `[K]`: how many problems may count in each share */
    int64_t num_problems, num_kinds, num_shares;
} Filling;

/* What each kind pays, summed in the order of the shares. */
static void pay(const Filling *f, const double *price, double *paid) {
    for (int64_t g = 0; g < f->num_kinds; g++) {
        paid[g] = 0.0;
        for (int64_t k = 0; k < f->num_shares; k++) paid[g] += price[k] * f->uses[k * f->num_kinds + g];
    }
}

/* Moves the prices that bind together: one by one they would follow each other in small steps (passes.py, _shift). */
static void shift(const Filling *f, double *price, double *work) {
    double paid[256], total = 0.0, least = INFINITY;
    int64_t side[256], binding = 0, inside = 0;
    for (int64_t k = 0; k < f->num_shares; k++)
        if (price[k] > 0.0) binding++, total += f->high[k], least = price[k] < least ? price[k] : least;
    for (int64_t g = 0; g < f->num_kinds; g++) {
        double count = 0.0;
        for (int64_t k = 0; k < f->num_shares; k++) count += price[k] > 0.0 ? f->uses[k * f->num_kinds + g] : 0.0;
        if (count > 1.0) return; /* nested shares */
        inside += side[g] = count > 0.0;
    }
    const int64_t n = f->num_problems;
    const double place = n - 1 - floor(total);
    if (binding < 2 || inside == 0 || inside == f->num_kinds || !(place >= 0.0 && place < n)) return;
    pay(f, price, paid);
    gains(f->best, n, f->num_kinds, paid, side, work);
    const double found = ranked(work, n, (int64_t)place, work) + 0.0, step = found > -least ? found : -least;
    for (int64_t k = 0; k < f->num_shares && fabs(found) < INFINITY; k++)
        if (price[k] > 0.0) price[k] += step;
}

/* Prices `[K]` by turns: each the order statistic at which its share is filled given the others; and those off `[K]`
   ranks to either side, lower and upper `[K]` (passes.py, fill_shares). gain `[K][N]` and work `[N]` are room to work in. */
API void fill_shares(const Filling *f, const double *off, const double *floors, const double *ceilings, int64_t turns,
                     double *price, double *lower, double *upper, double *gain, double *work) {
    double paid[256];
    int64_t side[256], settled = 0;
    const int64_t n = f->num_problems;
    for (int64_t turn = 0; turn < turns && !settled; turn++) {
        if (turn) shift(f, price, work);
        settled = 1;
        for (int64_t k = 0; k < f->num_shares; k++) {
            const double before = price[k];
            double *own = gain + k * n;
            price[k] = 0.0;
            pay(f, price, paid);
            for (int64_t g = 0; g < f->num_kinds; g++) side[g] = f->uses[k * f->num_kinds + g] > 0.0;
            gains(f->best, n, f->num_kinds, paid, side, own);
            double now = price_of(own, n, f->low[k], f->high[k], work);
            now = now > floors[k] ? now : floors[k];
            price[k] = now = now < ceilings[k] ? now : ceilings[k];
            const double least = before < now ? before : now, most = before < now ? now : before;
            int64_t misses = 0;
            for (int64_t i = 0; i < n; i++) misses += (own[i] > least) & (own[i] <= most);
            settled &= (double)misses <= off[k] / 3;
        }
    }
    for (int64_t k = 0; k < f->num_shares; k++) {
        lower[k] = price_of(gain + k * n, n, f->low[k] + off[k], f->high[k] + off[k], work);
        upper[k] = price_of(gain + k * n, n, f->low[k] - off[k], f->high[k] - off[k], work);
    }
}

/* ibpo/allocation/share_budgets.py, _settle: of each problem a kind that is best at some prices of a box, and whether there
   are several. best `[G][N]`; a kind pays from lowest to highest `[G]`. */
API void settle(const double *best, int64_t n, int64_t num_kinds, const double *lowest, const double *highest,
                uint8_t *kind, uint8_t *several) {
    double sure[CHUNK];
    uint8_t count[CHUNK], which[CHUNK];
    for (int64_t first = 0; first < n; first += CHUNK) {
        const int64_t m = n - first < CHUNK ? n - first : CHUNK;
        for (int64_t i = 0; i < m; i++) sure[i] = -INFINITY, count[i] = which[i] = 0;
        for (int64_t g = 0; g < num_kinds; g++) {
            const double *row = best + g * n + first, most = highest[g];
            for (int64_t i = 0; i < m; i++) sure[i] = row[i] - most > sure[i] ? row[i] - most : sure[i];
        }
        for (int64_t i = 0; i < m; i++) sure[i] -= 1e-12 * (1.0 + fabs(sure[i]));
        for (int64_t g = 0; g < num_kinds; g++) {
            const double *row = best + g * n + first, least = lowest[g];
            for (int64_t i = 0; i < m; i++) {
                const uint8_t able = row[i] - least >= sure[i];
                count[i] += able, which[i] |= able ? (uint8_t)g : 0;
            }
        }
        for (int64_t i = 0; i < m; i++) kind[first + i] = which[i], several[first + i] = count[i] > 1;
    }
}

/* ibpo/allocation/share_budgets.py, _exchange: moves problems between M <= 33 nodes along shortest paths, until their
   numbers keep low .. high and no move is worth anything. value `[M][N]`; node `[N]` is changed; far `[M]`: the length
   of the shortest path to each node. True where that is reached. */
API int64_t exchange(const double *value, int64_t n, int64_t num_nodes, const double *low, const double *high,
                     int64_t most, int64_t *node, double *far) {
    enum { M = 33 };
    const int64_t m = num_nodes;
    double edge[M][M], next[M];
    int64_t mover[M][M], count[M], before[M], last[M];
    for (int64_t turn = 0; turn < most; turn++) {
        for (int64_t a = 0; a < m; a++) {
            count[a] = 0;
            for (int64_t b = 0; b < m; b++) edge[a][b] = INFINITY, mover[a][b] = 0;
        }
        for (int64_t p = 0; p < n; p++) {
            const int64_t a = node[p];
            count[a]++;
            for (int64_t b = 0; b < m; b++) {
                const double loss = value[a * n + p] - value[b * n + p];
                if (loss < edge[a][b]) edge[a][b] = loss, mover[a][b] = p;
            }
        }
        int over = 0, under = 0;
        for (int64_t a = 0; a < m; a++) edge[a][a] = 0.0, over |= count[a] > high[a], under |= count[a] < low[a];
        for (int64_t a = 0; a < m; a++) {
            before[a] = -1;
            far[a] = (over ? count[a] > high[a] : count[a] > low[a]) ? 0.0 : INFINITY;
        }
        int shorter = 1;
        for (int64_t round = 0; round < m && shorter; round++) { /* Bellman and Ford */
            shorter = 0;
            for (int64_t b = 0; b < m; b++) {
                next[b] = far[b], last[b] = before[b];
                for (int64_t a = 0; a < m; a++)
                    if (far[a] + edge[a][b] < next[b]) next[b] = far[a] + edge[a][b], last[b] = a, shorter = 1;
            }
            memcpy(far, next, m * sizeof(double)), memcpy(before, last, m * sizeof(int64_t));
        }
        if (shorter) return 0; /* a negative cycle: rounding */
        int64_t to = -1, steps = 0;
        int all = 1;
        for (int64_t b = 0; b < m; b++) {
            const int takes = under && !over ? count[b] < low[b] : count[b] < high[b];
            all &= far[b] < INFINITY;
            if (takes && before[b] >= 0 && (to < 0 || far[b] < far[to])) to = b;
        }
        if (!over && !under && (to < 0 || !(far[to] < 0.0))) return all;
        if (to < 0 || !(far[to] < INFINITY)) return 0;
        for (; before[to] >= 0 && steps < m; to = before[to], steps++) node[mover[before[to]][to]] = to;
    }
    return 0;
}

/* head[p]: the id of rows p width .. (p + 1) width. Returns whether all of these have it, and the segment before has not. */
API int64_t heads(const int64_t *ids, int64_t num_rows, int64_t width, int64_t *head) {
    for (int64_t r = 0, p = 0; r < num_rows; r += width, p++) {
        const int64_t id = head[p] = ids[r];
        int64_t differ = p && id == head[p - 1];
        if (width == 8)
            for (int i = 1; i < 8; i++) differ |= ids[r + i] ^ id;
        else
            for (int64_t i = 1; i < width; i++) differ |= ids[r + i] ^ id;
        if (differ) return 0;
    }
    return 1;
}

/* Where an id is another than that of the row before, from row 1 on: start `[n - 1]`. Returns how many. */
API int64_t starts(const int64_t *ids, int64_t n, int64_t *start) {
    int64_t found = 0;
    for (int64_t r = 1; r < n; r++) start[found] = r, found += ids[r] != ids[r - 1];
    return found;
}

/* A stable counting sort: order[i] is the row that comes i-th by ids, all of which are in low .. low + span - 1.
   place `[span + 1]` has to be 0 throughout; afterwards place[j] is where id low + j ends. */
API void sorted_rows(const int64_t *ids, int64_t n, int64_t low, int64_t span, int64_t *place, int64_t *order) {
    for (int64_t i = 0; i < n; i++) place[ids[i] - low + 1]++;
    for (int64_t j = 0; j < span; j++) place[j + 1] += place[j];
    for (int64_t i = 0; i < n; i++) order[place[ids[i] - low]++] = i;
}

/* Rows in random order, each for itself: the tables of the problems, by id less `low`, fit a cache better than the rows
   do, and are asked for AHEAD rows before they are needed. */
enum { AHEAD = 24 };

#ifdef __GNUC__
#define ASK(place) __builtin_prefetch(place, 1)
#else
#define ASK(place) (void)(place)
#endif

/* seen[id - low] becomes 1 for every id. */
API void see_ids(const int64_t *ids, int64_t n, int64_t low, uint8_t *seen) {
    for (int64_t r = 0; r < n; r++) seen[ids[r] - low] = 1;
}

/* `best_of_kinds` of such rows, best `[kinds][span]`, which has to be -inf throughout. */
API void scatter_best(const double *utility, const uint8_t *mark, const int64_t *ids, int64_t n, int64_t low, int64_t span,
                      const int64_t *kind, double *best) {
    int64_t first[256]; /* where the table of a mark's kind begins for id 0 */
    for (int i = 0; i < 256; i++) first[i] = kind[i] * span - low;
    for (int64_t r = 0; r < n; r++) {
        if (r + AHEAD < n) ASK(best + (first[mark[r + AHEAD]] + ids[r + AHEAD]));
        double *here = best + (first[mark[r]] + ids[r]);
        const double x = utility[r] + 0.0; /* no -0.0 */
        *here = x > *here ? x : *here;
    }
}

/* `mark_rows` of such rows, the first of several: value `[span]` is NaN where nothing is wanted, and becomes so. */
API void scatter_marks(const double *utility, const uint8_t *mark, const int64_t *ids, int64_t n, int64_t low, int64_t whole,
                       double *value, const uint8_t *of_problem, uint8_t *hit) {
    for (int64_t r = 0; r < n; r++) {
        if (r + AHEAD < n) ASK(value + (ids[r + AHEAD] - low));
        const int64_t p = ids[r] - low;
        hit[r] = 0;
        if (utility[r] == value[p] && (whole ? mark[r] : mark[r] != 0) == of_problem[p]) hit[r] = 1, value[p] = NAN;
    }
}

/* The one mark, other than 0, that the rows of each problem have, `[span]`, 0 throughout before; 0 if some have two. */
API int64_t scatter_slices(const uint8_t *mark, const int64_t *ids, int64_t n, int64_t low, uint8_t *slice) {
    for (int64_t r = 0; r < n; r++) {
        uint8_t *here = &slice[ids[r] - low];
        if (!mark[r]) continue;
        if (*here && *here != mark[r]) return 0;
        *here = mark[r];
    }
    return 1;
}

/* States of a search (ibpo/allocation/search.py, States): what they lose, and what they cost under each of K rows. */
typedef struct {
    const int64_t *loss;   /* [C] candidates, gathered by problem */
    const int64_t *cost;   /* [K][C] */
    const int64_t *start;  /* [P] first candidate of each problem, in the order of the search */
    const int64_t *length; /* [P] */
    const double *rest;    /* [P + 1] what the problems that are still to come lose at least, at these prices */
    const int64_t *room;   /* [K][P + 1] what they cost at most */
    const int64_t *low;    /* [K]; below 0: none */
    const int64_t *high;   /* [K]; below 0: none */
    const double *slope;   /* [K] prices, in losses per cost */
    int64_t num_candidates, num_problems, num_costs;
    int64_t most; /* only what loses less is looked for; below 0: anything */
    double paid, rounding;
} States;

/* S states side by side: column 0 are losses, column 1 + k costs. */
typedef struct {
    int64_t *column[17];
} Table;

static double bound_of(const States *s, int64_t j, const Table *t, int64_t i) {
    double bound = (double)t->column[0][i] + (s->rest[j] - s->paid - s->rounding);
    for (int64_t k = 0; k < s->num_costs; k++)
        if (s->slope[k] != 0.0) bound += s->slope[k] * (double)t->column[1 + k][i];
    return bound;
}

/* Can state i, j problems being chosen for, keep every bound, and lose less than what is known? */
static int is_promising(const States *s, int64_t j, const Table *t, int64_t i) {
    for (int64_t k = 0; k < s->num_costs; k++) {
        const int64_t x = t->column[1 + k][i];
        if (s->high[k] >= 0 && x > s->high[k]) return 0;
        if (s->low[k] >= 0 && x < s->low[k] - s->room[k * (s->num_problems + 1) + j]) return 0;
    }
    return s->most < 0 || (t->column[0][i] < s->most && bound_of(s, j, t, i) <= (double)(s->most - 1));
}

/* Order by the last cost, the last but one ..., the loss; a cost with a lower bound is better when it is larger. */
static int is_before(const States *s, const Table *t, int64_t a, int64_t b) {
    for (int64_t k = s->num_costs - 1; k >= 0; k--) {
        const int64_t x = t->column[1 + k][a], y = t->column[1 + k][b];
        if (x != y) return s->low[k] >= 0 ? x > y : x < y;
    }
    return t->column[0][a] < t->column[0][b];
}

/* A stable merge sort of n states' places, by their order above or by `key`. */
static void sort_places(const States *s, const Table *t, const double *key, int64_t *place, int64_t *other, int64_t n) {
    for (int64_t width = 1; width < n; width *= 2) {
        for (int64_t first = 0; first < n; first += 2 * width) {
            const int64_t middle = first + width < n ? first + width : n, last = middle + width < n ? middle + width : n;
            int64_t a = first, b = middle;
            for (int64_t i = first; i < last; i++) {
                int second = a >= middle;
                if (a < middle && b < last)
                    second = key ? key[place[b]] < key[place[a]] : is_before(s, t, place[b], place[a]);
                other[i] = second ? place[b++] : place[a++];
            }
        }
        memcpy(place, other, n * sizeof(int64_t));
    }
}

/* Keeps, of n states, those that no other one makes needless: see _undominated. Returns how many; `kept` are rising. */
static int64_t undominated(const States *s, const Table *t, int64_t n, int64_t rivals, int64_t *kept, int64_t *other,
                           double *key, char *flag) {
    for (int64_t i = 0; i < n; i++) kept[i] = i;
    if (n < 2) return n;
    if (!s->num_costs) {
        int64_t best = 0;
        for (int64_t i = 1; i < n; i++)
            if (t->column[0][i] < t->column[0][best]) best = i;
        kept[0] = best;
        return 1;
    }
    int two_sided = 0;
    for (int64_t k = 0; k < s->num_costs; k++) two_sided |= s->low[k] >= 0 && s->high[k] >= 0;
    sort_places(s, t, NULL, kept, other, n);
    int64_t count = 0, least = 0;
    for (int64_t i = 0; i < n; i++) { /* of equal costs the least loss; under one cost, none that loses as much for more */
        int same = i > 0;
        if (i && s->num_costs == 1 && !two_sided) same = t->column[0][kept[i]] >= least;
        else
            for (int64_t k = 0; i && k < s->num_costs && same; k++)
                same = t->column[1 + k][kept[i]] == t->column[1 + k][other[0]];
        const int64_t at = kept[i], loss = t->column[0][at];
        least = i && least < loss ? least : loss;
        other[0] = at; /* the one before, dropped or not */
        if (!same) kept[count++] = at;
    }
    if (count > 4 * rivals && s->num_costs > 1 && !two_sided) {
        int64_t *rank = other + n, *spare = rank + n;
        for (int64_t i = 0; i < count; i++) rank[i] = i, key[i] = bound_of(s, 0, t, kept[i]), flag[i] = 0;
        sort_places(s, t, key, rank, spare, count);
        for (int64_t a = 0; a < rivals; a++) {
            const int64_t rival = rank[a];
            if (flag[rival]) continue;
            for (int64_t i = 0; i < count; i++) {
                int worse = i != rival && t->column[0][kept[i]] >= t->column[0][kept[rival]];
                for (int64_t k = 0; k < s->num_costs && worse; k++) {
                    const int64_t x = t->column[1 + k][kept[i]], y = t->column[1 + k][kept[rival]];
                    worse = s->low[k] >= 0 ? x <= y : x >= y;
                }
                flag[i] |= worse;
            }
        }
        int64_t left = 0;
        for (int64_t i = 0; i < count; i++)
            if (!flag[i]) kept[left++] = kept[i];
        count = left;
    }
    for (int64_t i = 0; i < n; i++) flag[i] = 0;
    for (int64_t i = 0; i < count; i++) flag[kept[i]] = 1;
    count = 0;
    for (int64_t i = 0; i < n; i++)
        if (flag[i]) kept[count++] = i;
    return count;
}

/* The most promising of n states, about `width`: see _promise. */
static int64_t promise(const States *s, int64_t j, const Table *t, int64_t n, int64_t width, int64_t *kept, int64_t *other,
                       double *key, double *pay, char *flag) {
    double low = 0.0, high = 0.0;
    for (int64_t i = 0; i < n; i++) {
        kept[i] = i, key[i] = bound_of(s, j, t, i), pay[i] = 0.0, flag[i] = 0;
        for (int64_t k = 0; k < s->num_costs; k++)
            if (s->slope[k] != 0.0) pay[i] += s->slope[k] * (double)t->column[1 + k][i];
        if (!i || pay[i] < low) low = pay[i];
        if (!i || pay[i] > high) high = pay[i];
    }
    sort_places(s, t, key, kept, other, n);
    const int levels = high > low;
    const int64_t half = levels ? width / 2 : width;
    for (int64_t i = 0; i < half && i < n; i++) flag[kept[i]] = 1;
    if (levels) {
        const double step = (double)(width / 2) / (high - low);
        for (int64_t l = 0; l <= width / 2 + 1; l++) other[l] = -1;
        for (int64_t i = 0; i < n; i++) { /* the first by rank of each level */
            const int64_t level = (int64_t)((pay[kept[i]] - low) * step);
            if (other[level] < 0) other[level] = kept[i], flag[kept[i]] = 1;
        }
    }
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        if (flag[i]) kept[count++] = i;
    return count;
}

/* States.run: 1 with the candidates of the best choice in `picked` `[P]`, its loss in out[0]; 0 where there is none;
   -1 where the limit is reached, with the least bound of what was not looked at in least[0].
   work: 6 + 2 (1 + K) columns of `size` numbers, floats: two, flag: one; size is at least limit + 2 width + 64. */
API int64_t run_states(const States *s, int64_t limit, int64_t width, int64_t rivals, int64_t size, int64_t *work,
                       double *floats, char *flag, int64_t *picked, int64_t *out, double *least) {
    Table now, next;
    for (int64_t k = 0; k <= s->num_costs; k++) now.column[k] = work, work += size, next.column[k] = work, work += size;
    int64_t *parent = work, *option = work + size, *kept = work + 2 * size, *other = work + 3 * size; /* other: 3 sizes */
    double *key = floats, *pay = floats + size;
    int64_t count = 1, traced = 0;
    for (int64_t k = 0; k <= s->num_costs; k++) now.column[k][0] = 0;
    if (!is_promising(s, 0, &now, 0)) return 0;
    for (int64_t j = 0; j < s->num_problems; j++) {
        const int64_t begin = s->start[j], options = s->length[j];
        limit -= count * options;
        if (limit < 0) {
            for (int64_t i = 0; i < count; i++) {
                const double bound = bound_of(s, j, &now, i);
                if (!i || bound < least[0]) least[0] = bound;
            }
            return -1;
        }
        /* each state with each candidate of the problem */
        int64_t grown = 0;
        for (int64_t i = 0; i < count; i++)
            for (int64_t c = begin; c < begin + options; c++) {
                next.column[0][grown] = now.column[0][i] + s->loss[c];
                for (int64_t k = 0; k < s->num_costs; k++)
                    next.column[1 + k][grown] = now.column[1 + k][i] + s->cost[k * s->num_candidates + c];
                if (is_promising(s, j + 1, &next, grown)) {
                    parent[traced + grown] = i, option[traced + grown] = c;
                    grown++;
                }
            }
        int64_t left = undominated(s, &next, grown, rivals, kept, other, key, flag);
        for (int pass = 0; pass < 2; pass++) { /* close up; then, if there are too many, those of most promise */
            for (int64_t i = 0; i < left; i++) {
                for (int64_t k = 0; k <= s->num_costs; k++) now.column[k][i] = next.column[k][kept[i]];
                parent[traced + i] = parent[traced + kept[i]], option[traced + i] = option[traced + kept[i]];
            }
            if (pass || !width || left <= width) break;
            for (int64_t k = 0; k <= s->num_costs; k++) memcpy(next.column[k], now.column[k], left * sizeof(int64_t));
            left = promise(s, j + 1, &next, left, width, kept, other, key, pay, flag);
        }
        if (!left) return 0;
        picked[j] = traced; /* where the trace of this problem begins */
        traced += left, count = left;
    }
    int64_t best = 0;
    for (int64_t i = 1; i < count; i++)
        if (now.column[0][i] < now.column[0][best]) best = i;
    out[0] = now.column[0][best];
    for (int64_t j = s->num_problems - 1; j >= 0; j--) {
        const int64_t at = picked[j] + best;
        best = parent[at], picked[j] = option[at];
    }
    return 1;
}
