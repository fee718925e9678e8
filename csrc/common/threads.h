// A small thread pool: parallel_for(tasks, threads, body) calls body(task, worker) once a task, worker in [0, threads).
//
// Callers cut work into tasks by shape alone, never by the number of threads, so results do not depend on it. The pool is safe
// after fork (a child starts its own workers: data-loader workers call these functions), serves one job at a time, and runs a
// call inline when it is busy or asked for from inside a job, so it can neither deadlock nor oversubscribe the machine.
#pragma once

#include <cstdint>
#include <type_traits>

namespace wsss {

using TaskFunction = void (*)(void* body, int64_t task, int worker);

// The first exception thrown by a task is rethrown here after all workers have stopped.
void run_tasks(int64_t tasks, int threads, TaskFunction function, void* body);

template <class Body>
void parallel_for(int64_t tasks, int threads, Body&& body) {
    run_tasks(
        tasks, threads,
        [](void* data, int64_t task, int worker) { (*static_cast<std::remove_reference_t<Body>*>(data))(task, worker); },
        const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace wsss
