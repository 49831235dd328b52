/* The pool of threads: that of torch, whose functions are given once; without them everything runs in one thread.

   Pieces are handed out one after another, so that a thread that is held up does not hold up the others. */

#include "products.h"

#include <stdatomic.h>

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

/* The newest instructions that this processor and operating system have. */
int best_path(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vnni"))
        return WITH_AVX512;
    return avx2 ? WITH_AVX2 : PORTABLE;
#else
    return PORTABLE;
#endif
}
