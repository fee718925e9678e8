#include "common/threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace wsss {
namespace {

thread_local bool inside_a_task = false;

struct Job {
    int64_t tasks = 0;
    TaskFunction function = nullptr;
    void* body = nullptr;
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    std::exception_ptr error;
    std::mutex error_mutex;

    void work(int worker) {
        inside_a_task = true;
        for (int64_t task; !failed.load(std::memory_order_relaxed) && (task = next.fetch_add(1)) < tasks;) {
            try {
                function(body, task, worker);
            } catch (...) {
                std::lock_guard<std::mutex> lock(error_mutex);
                if (!error) error = std::current_exception();
                failed = true;
            }
        }
        inside_a_task = false;
    }
};

class Pool {
public:
    bool try_run(Job& job, int threads) {
        std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
        if (!owner) return false;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            start_workers(threads - 1);
            const int helpers = std::min<int>(threads - 1, static_cast<int>(workers_.size()));
            if (helpers == 0) return false;  // the system gave us no thread: the caller runs the job alone
            job_ = &job;
            helpers_ = helpers;
            running_ = helpers;
            ++generation_;
        }
        wake_.notify_all();
        job.work(0);
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return running_ == 0; });
        job_ = nullptr;
        return true;
    }

private:
    void start_workers(int wanted) {
        while (static_cast<int>(workers_.size()) < wanted) {
            const int index = static_cast<int>(workers_.size()) + 1;
            try {
                workers_.emplace_back(&Pool::serve, this, index, generation_);
            } catch (const std::system_error&) {
                return;
            }
            workers_.back().detach();  // workers live as long as the process; nothing to join at exit
        }
    }

    void serve(int index, uint64_t seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return generation_ != seen; });
            seen = generation_;
            if (index > helpers_) continue;
            Job* job = job_;
            lock.unlock();
            job->work(index);
            lock.lock();
            if (--running_ == 0) done_.notify_one();
        }
    }

    std::mutex owner_;  // held by the caller whose job is running
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::vector<std::thread> workers_;
    Job* job_ = nullptr;
    int helpers_ = 0, running_ = 0;
    uint64_t generation_ = 0;
};

// The pool is never destroyed: at exit detached workers may still wait on it, and after fork the child must not touch
// mutexes that a vanished thread may hold.
std::atomic<Pool*> current_pool{nullptr};

Pool& pool() {
    static const int registered = [] {
        current_pool = new Pool;
        return pthread_atfork(nullptr, nullptr, [] {
            current_pool = new Pool;
            inside_a_task = false;
        });
    }();
    (void)registered;
    return *current_pool;
}

}  // namespace

void run_tasks(int64_t tasks, int threads, TaskFunction function, void* body) {
    if (tasks <= 0) return;
    Job job;
    job.tasks = tasks;
    job.function = function;
    job.body = body;
    threads = static_cast<int>(std::min<int64_t>(threads, tasks));
    const bool nested = inside_a_task;
    if (threads <= 1 || nested || !pool().try_run(job, threads)) {
        job.work(0);
        inside_a_task = nested;
    }
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace wsss
