// Stacks, the context switch and the sanitizers' view of both.
#include "simt/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#if WSSS_SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if WSSS_SIMT_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" {  // exported by the runtime library, declared in no header of it
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

#if WSSS_SIMT_ASSEMBLY
// void wsss_simt_switch(void** save, void* resume): pushes the registers a callee must keep, stores the stack pointer in *save
// and continues where `resume` was stored. The indirect jump is twice as fast as `ret`, which the return predictor gets wrong.
extern "C" void wsss_simt_switch(void** save, void* resume);
asm(R"(
    .text
    .globl wsss_simt_switch
    .hidden wsss_simt_switch
    .type wsss_simt_switch, @function
wsss_simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %r8
    jmpq *%r8
    .size wsss_simt_switch, .-wsss_simt_switch
)");
#endif

namespace wsss {
namespace simt {

namespace {

#if WSSS_SIMT_ASAN
constexpr size_t kStackBytes = 256 * 1024;  // red zones around every local make frames several times larger
#elif WSSS_SIMT_TSAN
constexpr size_t kStackBytes = 64 * 1024;  // its shadow is cleared for every thread of every block: keep it small
#else
constexpr size_t kStackBytes = 128 * 1024;
#endif

#if WSSS_SIMT_TSAN

unsigned char* take_stack() {
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, kStackBytes) != 0) throw std::bad_alloc();
    return static_cast<unsigned char*>(memory);
}
void return_stack(unsigned char* stack) {
    std::free(stack);
}

// ThreadSanitizer needs half a millisecond to make a fibre: they are kept.
void* tsan_identity(size_t number) {
    static auto* known = new std::vector<void*>;
    while (known->size() <= number) known->push_back(__tsan_create_fiber(0));
    return (*known)[number];
}

#else

// Kept for the life of the process: mapping them anew costs more than running a small kernel.
std::vector<unsigned char*>& stack_pool() {
    static auto* pool = new std::vector<unsigned char*>;
    return *pool;
}

unsigned char* take_stack() {
    auto& pool = stack_pool();
    if (!pool.empty()) {
        unsigned char* stack = pool.back();
        pool.pop_back();
#if WSSS_SIMT_ASAN
        __asan_unpoison_memory_region(stack, kStackBytes);  // frames of finished threads are still marked
#endif
        return stack;
    }
    const size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* memory = mmap(nullptr, guard + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, guard, PROT_NONE);
    return static_cast<unsigned char*>(memory) + guard;
}
void return_stack(unsigned char* stack) {
    stack_pool().push_back(stack);
}

#endif

}  // namespace

void adopt_host(Fiber& host) {
#if WSSS_SIMT_TSAN
    host.tsan_fiber = __tsan_get_current_fiber();
#endif
    (void)host;
}

void arm(Fiber& fiber, void (*entry)(), size_t identity, const char* name) {
    fiber.stack = take_stack();
    fiber.stack_bytes = kStackBytes;
    fiber.asan_fake_stack = nullptr;
#if WSSS_SIMT_ASSEMBLY
    // What wsss_simt_switch pops: six registers (rbp = 0 ends stack traces), then the entry; above it a return address of 0,
    // which also gives entry() the stack alignment of a called function.
    // Stacks begin at different offsets in a page, or the lanes of a warp would compete for the same few lines of the cache.
    const size_t offset = identity * 13 % 64 * 64;
    auto** top = reinterpret_cast<void**>(fiber.stack + kStackBytes - offset) - 1;
    *top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    fiber.context = top;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
#endif
#if WSSS_SIMT_TSAN
    fiber.tsan_fiber = tsan_identity(identity);
    __tsan_set_fiber_name(fiber.tsan_fiber, name);
#endif
    (void)identity;
    (void)name;
}

void disarm(Fiber& fiber) {
    return_stack(fiber.stack);
    fiber.stack = nullptr;
}

void entered(Fiber& host) {
#if WSSS_SIMT_ASAN
    const void* bottom = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    host.stack = static_cast<unsigned char*>(const_cast<void*>(bottom));
    host.stack_bytes = bytes;
#endif
    (void)host;
}

void switch_fiber(Fiber& from, Fiber& to, bool from_ends) {
#if WSSS_SIMT_ASAN
    __sanitizer_start_switch_fiber(from_ends ? nullptr : &from.asan_fake_stack, to.stack, to.stack_bytes);
#endif
#if WSSS_SIMT_TSAN
    __tsan_switch_to_fiber(to.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
    (void)from_ends;
#if WSSS_SIMT_ASSEMBLY
    wsss_simt_switch(&from.context, to.context);
#else
    swapcontext(&from.context, &to.context);
#endif
#if WSSS_SIMT_ASAN
    __sanitizer_finish_switch_fiber(from.asan_fake_stack, nullptr, nullptr);
#endif
}

#if WSSS_SIMT_TSAN
void sync_release(void* tag) {
    __tsan_release(tag);
}
void sync_acquire(void* tag) {
    __tsan_acquire(tag);
}
void ignore_begin() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}
void ignore_end() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}
#else
void sync_release(void*) {}
void sync_acquire(void*) {}
void ignore_begin() {}
void ignore_end() {}
#endif

}  // namespace simt
}  // namespace wsss
