/* The pool of threads: that of torch, whose functions are given once; without them everything runs in one thread.

   Pieces are handed out one after another, so that a thread that is held up does not hold up the others. */

#include "products.h"

#include <stdatomic.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

static void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
static int (*max_threads)(void);
static int (*in_parallel)(void);

void set_pool(void *start, void *most, void *within)
{
    parallel = (void (*)(void (*)(void *), void *, unsigned, unsigned))start;
    max_threads = (int (*)(void))most;
    in_parallel = (int (*)(void))within;
}

typedef struct {
    Body body;
    void *data;
    int64_t count, step;
    _Atomic int64_t next;
} Task;

static void work(void *given)
{
    Task *task = given;
    int64_t begin;
    while ((begin = atomic_fetch_add(&task->next, task->step)) < task->count)
        task->body(task->data, begin, MIN(begin + task->step, task->count));
}

void share(Body body, void *data, int64_t count, int64_t grain)
{
    int threads = parallel && !in_parallel() ? max_threads() : 1;
    if (threads < 2 || count < 2 * grain) {
        body(data, 0, count);
        return;
    }
    int64_t step = (count + 8 * threads - 1) / (8 * threads);
    step = (step + 3) / 4 * 4;
    Task task = {body, data, count, step < grain ? grain : step, 0};
    parallel(work, &task, (unsigned)threads, 0);
}

typedef struct {
    const uint64_t *numbers;
    _Atomic uint64_t found;
} Reading;

static void read_piece(void *given, int64_t begin, int64_t end)
{
    Reading *reading = given;
    uint64_t all = 0;
    for (int64_t block = begin; block < end; block++) { /* of 4 KB */
        const uint64_t *from = reading->numbers + 512 * block;
        for (int i = 0; i < 512; i += 8)
            __builtin_prefetch(from + 1024 + i, 0, 2);
        for (int i = 0; i < 512; i++)
            all |= from[i];
    }
    atomic_fetch_or(&reading->found, all);
}

/* Reads memory in all threads, and does nothing with it: the bound that products are compared with. */
uint64_t read_all(const uint64_t *numbers, int64_t bytes)
{
    Reading reading = {numbers, 0};
    share(read_piece, &reading, bytes / 4096, 8);
    return reading.found;
}

/* The newest instructions that this processor and operating system have. */
int best_path(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    unsigned a, b, c = 0, d;
    int f16c = __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C; /* not every compiler has a name for it */
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vnni"))
        return WITH_AVX512;
    return avx2 ? WITH_AVX2 : PORTABLE;
#else
    return PORTABLE;
#endif
}
