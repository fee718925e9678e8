// Fibres: several stacks on one OS thread, switched by hand (x86-64 assembly, ucontext elsewhere), with the calls that keep
// AddressSanitizer and ThreadSanitizer informed. Each CUDA thread is one fibre; the host thread is another.
#pragma once

#include <ucontext.h>

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define WSSS_SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WSSS_SIMT_ASAN 1
#endif
#endif
#ifndef WSSS_SIMT_ASAN
#define WSSS_SIMT_ASAN 0
#endif
// The runtime itself is compiled without -fsanitize=thread, so the build says that the executable is under it.
#ifndef WSSS_SIMT_TSAN
#define WSSS_SIMT_TSAN 0
#endif

namespace wsss {
namespace simt {

#if defined(__x86_64__) && !defined(WSSS_SIMT_UCONTEXT)
#define WSSS_SIMT_ASSEMBLY 1
using FiberContext = void*;  // the saved stack pointer
#else
#define WSSS_SIMT_ASSEMBLY 0
using FiberContext = ucontext_t;
#endif

struct Fiber {
    FiberContext context{};
    unsigned char* stack = nullptr;
    size_t stack_bytes = 0;
    void* asan_fake_stack = nullptr;
    void* tsan_fiber = nullptr;
};

// Most fibres that may live together (ThreadSanitizer of gcc 12 ends a process at 8128).
constexpr size_t kMaxFibers = 8000;

void adopt_host(Fiber& host);  // makes the calling OS thread's stack a fibre to return to
// Prepares `fiber` to call entry() at the next switch to it; entry never returns. Gives it a stack: a pooled one behind a guard
// page, or under ThreadSanitizer a new one, because a reused stack would carry the previous block's accesses. `identity` numbers
// the thread ThreadSanitizer takes it for; `name` appears in its reports.
void arm(Fiber& fiber, void (*entry)(), size_t identity, const char* name);
void disarm(Fiber& fiber);  // after the fibre's last switch: gives the stack back
void entered(Fiber& host);  // first call on a new fibre
void switch_fiber(Fiber& from, Fiber& to, bool from_ends = false);

// Happens-before edges and ignored bookkeeping; empty outside ThreadSanitizer.
void sync_release(void* tag);
void sync_acquire(void* tag);
void ignore_begin();
void ignore_end();

// The runtime's own accesses, between entering it from a kernel and returning to the kernel.
class Bookkeeping {
public:
    Bookkeeping() { ignore_begin(); }
    ~Bookkeeping() { ignore_end(); }
    Bookkeeping(const Bookkeeping&) = delete;
    Bookkeeping& operator=(const Bookkeeping&) = delete;
};

}  // namespace simt
}  // namespace wsss
