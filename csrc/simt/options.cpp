// The emulator's settings: environment variables, or set_options().
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>

#include "simt/runtime.h"

namespace wsss {
namespace simt {

namespace {

std::mutex options_mutex;
bool options_are_set = false;
Options set_values;

[[noreturn]] void refuse(const char* what, const char* allowed, const std::string& got) {
    throw std::invalid_argument(std::string("simt: '") + what + "' must be " + allowed + ", got '" + got + "'");
}

// The number that `text` holds from place `start` on.
uint64_t parse_number(const char* what, const char* allowed, const std::string& text, size_t start, int base, uint64_t largest) {
    char* end = nullptr;
    const unsigned long long value = std::strtoull(text.c_str() + start, &end, base);
    if (!std::isdigit(static_cast<unsigned char>(text.c_str()[start])) || *end != 0 || value > largest)
        refuse(what, allowed, text);
    return value;
}

}  // namespace

Options parse_options(const char* schedule, const char* cp_async, const char* poison) {
    Options options;
    if (schedule && *schedule) {
        const char* allowed = "fwd, grev or pct:SEED";
        const std::string text = schedule;
        if (text == "fwd") {
            options.schedule = Schedule::kForward;
        } else if (text == "grev") {
            options.schedule = Schedule::kGreedyReverse;
        } else if (text.compare(0, 4, "pct:") == 0) {
            options.schedule = Schedule::kRandom;
            options.seed = parse_number("schedule", allowed, text, 4, 10, UINT64_MAX);
        } else {
            refuse("schedule", allowed, text);
        }
    }
    if (cp_async && *cp_async) {
        const std::string text = cp_async;
        if (text != "lazy" && text != "eager") refuse("cp_async", "lazy or eager", text);
        options.lazy_cp_async = text == "lazy";
    }
    if (poison && *poison)
        options.poison = static_cast<unsigned char>(parse_number("poison", "a byte, as in 0xFF or 0x7F", poison, 0, 0, 0xFF));
    return options;
}

void set_options(const Options& options) {
    const std::lock_guard<std::mutex> lock(options_mutex);
    set_values = options;
    options_are_set = true;
}

void clear_options() {
    const std::lock_guard<std::mutex> lock(options_mutex);
    options_are_set = false;
}

Options current_options() {
    const std::lock_guard<std::mutex> lock(options_mutex);
    if (options_are_set) return set_values;
    return parse_options(std::getenv("WSSS_SIMT_SCHEDULE"), std::getenv("WSSS_SIMT_CP_ASYNC"), std::getenv("WSSS_SIMT_POISON"));
}

}  // namespace simt
}  // namespace wsss
