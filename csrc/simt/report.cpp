// Faults found inside a kernel: one report on stderr, then the process ends. A fibre's stack cannot be unwound into the host's.
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "simt/state.h"

namespace wsss {
namespace simt {

namespace {

class Text {
public:
    void add(const char* format, ...) __attribute__((format(printf, 2, 3))) {
        va_list arguments;
        va_start(arguments, format);
        add_list(format, arguments);
        va_end(arguments);
    }
    void add_list(const char* format, va_list arguments) {
        const int wanted = std::vsnprintf(buffer_ + used_, sizeof buffer_ - used_, format, arguments);
        if (wanted > 0) used_ = std::min(sizeof buffer_ - 1, used_ + static_cast<size_t>(wanted));
    }
    [[noreturn]] void finish() {
        std::fflush(stdout);
        size_t sent = 0;
        while (sent < used_) {
            const ssize_t count = write(STDERR_FILENO, buffer_ + sent, used_ - sent);
            if (count <= 0) break;
            sent += static_cast<size_t>(count);
        }
        // Not _exit: ThreadSanitizer would replace the exit code by its own.
        syscall(SYS_exit_group, kFaultExitCode);
        __builtin_unreachable();
    }

private:
    char buffer_[8192];
    size_t used_ = 0;
};

void add_heading(Text& text, const char* kind) {
    text.add("wsss simt: %s", kind);
    if (active_launch) text.add(" in '%s'", active_launch->config.op);
}

const char* file_of(const Thread& thread) {
    return thread.site.file ? thread.site.file : "?";
}

bool waits_alike(const Thread& a, const Thread& b) {
    return a.block == b.block && a.state == b.state &&
           (a.state == State::kFinished ||
            (std::strcmp(a.waits_at, b.waits_at) == 0 && a.site.line == b.site.line && std::strcmp(file_of(a), file_of(b)) == 0));
}

}  // namespace

void fault(const char* kind, Site site, const char* format, ...) {
    Text text;
    add_heading(text, kind);
    if (current_thread) {
        const uint3 block = current_thread->block_index, thread = current_thread->thread_index;
        text.add(", block (%u, %u, %u), thread (%u, %u, %u)", block.x, block.y, block.z, thread.x, thread.y, thread.z);
    }
    if (site.file) text.add(", at %s:%d", site.file, site.line);
    text.add("\n    ");
    va_list arguments;
    va_start(arguments, format);
    text.add_list(format, arguments);
    va_end(arguments);
    text.add("\n");
    text.finish();
}

// No thread can go on: names the kind of mistake and lists who waits where, with counts.
void fault_stuck(const Group& group) {
    bool any_finished = false, any_at_barrier = false, any_at_collective = false;
    for (const Thread& thread : group.threads) {
        any_finished |= thread.state == State::kFinished;
        any_at_collective |= thread.state == State::kAtCollective;
        any_at_barrier |= thread.state == State::kAtBlockBarrier || thread.state == State::kAtGroupBarrier;
    }
    Text text;
    add_heading(text, any_at_collective ? "missing-lane" : any_finished && any_at_barrier ? "exit-before-barrier" : "deadlock");
    text.add(": no thread can continue\n");
    constexpr int kMaxLines = 16;
    int lines = 0;
    for (size_t i = 0; i < group.threads.size() && lines < kMaxLines; ++i) {
        const Thread& thread = group.threads[i];
        bool listed = false;
        for (size_t j = 0; j < i && !listed; ++j) listed = waits_alike(group.threads[j], thread);
        if (listed) continue;
        unsigned count = 0;
        for (const Thread& other : group.threads) count += waits_alike(other, thread);
        const uint3 block = thread.block_index, index = thread.thread_index;
        text.add("    block (%u, %u, %u): %u thread%s, the first (%u, %u, %u), ", block.x, block.y, block.z, count,
                 count == 1 ? "" : "s", index.x, index.y, index.z);
        if (thread.state == State::kFinished)
            text.add("returned from the kernel\n");
        else
            text.add("wait at %s of %s:%d\n", thread.waits_at, file_of(thread), thread.site.line);
        ++lines;
    }
    if (lines == kMaxLines) text.add("    ...\n");
    text.finish();
}

}  // namespace simt
}  // namespace wsss
