/*
 * Atomic access for ARMv6, whose Thumb code has no instruction for it: the compiler calls these functions instead, and
 * they are ARM code. The names are the compiler's own, so C gives them by assembly alone.
 */
#define ARM __attribute__((target("arm")))
#define NAMED(name) __asm__(#name)

#define ACCESS(size, type)                                                                                             \
    ARM type swap_##size(type *at, type new) NAMED(__sync_lock_test_and_set_##size);                                   \
    ARM type swap_##size(type *at, type new) { return __atomic_exchange_n(at, new, __ATOMIC_SEQ_CST); }                \
    ARM type compare_##size(type *at, type old, type new) NAMED(__sync_val_compare_and_swap_##size);                   \
    ARM type compare_##size(type *at, type old, type new)                                                              \
    {                                                                                                                  \
        __atomic_compare_exchange_n(at, &old, new, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                             \
        return old;                                                                                                    \
    }                                                                                                                  \
    FETCH(add, size, type)                                                                                             \
    FETCH(sub, size, type)                                                                                             \
    FETCH(and, size, type)                                                                                             \
    FETCH(or, size, type)                                                                                              \
    FETCH(xor, size, type)

#define FETCH(operation, size, type)                                                                                   \
    ARM type operation##_##size(type *at, type with) NAMED(__sync_fetch_and_##operation##_##size);                     \
    ARM type operation##_##size(type *at, type with) { return __atomic_fetch_##operation(at, with, __ATOMIC_SEQ_CST); }

ACCESS(1, unsigned char)
ACCESS(2, unsigned short)
ACCESS(4, unsigned int)
ACCESS(8, unsigned long long)

ARM void fence(void) NAMED(__sync_synchronize);
ARM void fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
