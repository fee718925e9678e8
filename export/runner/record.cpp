#include "record.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "files.h"
#include "json.h"

namespace wsss::runner {
namespace {

constexpr uintmax_t kLargestRecord = 16 << 20;

class Entries {
public:
    explicit Entries(const std::string& text) : table_(flat_json(text)) {}

    bool has(const std::string& name) const { return table_.count(name) > 0; }
    const std::string& text(const std::string& name) const {
        const auto found = table_.find(name);
        if (found == table_.end()) throw Failure("'" + name + "' is missing");
        return found->second;
    }
    std::string hash(const std::string& name) const {
        const std::string& hash = text(name);
        if (hash.size() != 64 || hash.find_first_not_of("0123456789abcdef") != std::string::npos) refuse(name, "a SHA-256");
        return hash;
    }
    std::array<float, 3> three(const std::string& name) const {
        std::array<float, 3> numbers{};
        for (size_t i = 0; i < 3; ++i) {
            const std::string entry = name + "." + std::to_string(i), &number = text(entry);
            char* end = nullptr;
            numbers[i] = std::strtof(number.c_str(), &end);
            if (*end != '\0' || !std::isfinite(numbers[i])) refuse(entry, "a number");
        }
        return numbers;
    }
    [[noreturn]] static void refuse(const std::string& name, const std::string& wanted) {
        throw Failure("'" + name + "' must be " + wanted);
    }

private:
    std::map<std::string, std::string> table_;
};

void read_profile(Record& record) {
    Record::Shape best{};
    const char* next = record.profile.c_str();
    for (Record::Shape* shape : {&record.least, &best, &record.most}) {
        int used = 0;
        auto& [n, h, w] = *shape;
        const bool read = std::sscanf(next, "%5ldx%5ldx%5ld%n", &n, &h, &w, &used) == 3 && std::min({n, h, w}) > 0;
        if (!read || next[used] != (shape == &record.most ? '\0' : ',')) Entries::refuse("facts.profile", "three sizes");
        next += used + 1;
    }
}

Record parsed(const Entries& entries) {
    Record record;
    record.engine_sha256 = entries.hash("engine_sha256");
    if (entries.has("facts.plugins_sha256")) record.plugins_sha256 = entries.hash("facts.plugins_sha256");
    record.made_with = entries.text("facts.flavour") + " " + entries.text("facts.library") + " for " +
                       (entries.has("facts.gpu") ? entries.text("facts.gpu") : "any GPU");
    record.profile = entries.text("facts.profile");
    read_profile(record);
    record.mean = entries.three("meta.normalisation.mean");
    record.deviation = entries.three("meta.normalisation.std");
    if (*std::min_element(record.deviation.begin(), record.deviation.end()) <= 0)
        Entries::refuse("meta.normalisation.std", "above 0");
    const std::string& order = entries.text("meta.normalisation.order");
    if (order != "rgb" && order != "bgr") Entries::refuse("meta.normalisation.order", "rgb or bgr");
    record.bgr = order == "bgr";
    do {
        const std::string entry = "meta.outputs." + std::to_string(record.outputs.size());
        const std::string& name = entries.text(entry);
        // becomes a part of a file's name
        const auto plain = [](unsigned char c) { return std::isalnum(c) || c == '_'; };
        if (name.empty() || !std::all_of(name.begin(), name.end(), plain)) Entries::refuse(entry, "a plain name");
        record.outputs.push_back(name);
    } while (entries.has("meta.outputs." + std::to_string(record.outputs.size())));
    return record;
}

}  // namespace

Record read_record(const std::filesystem::path& path) {
    const std::string text = read_file(path, kLargestRecord);
    try {
        return parsed(Entries(text));
    } catch (const Failure& error) {
        throw Failure("'" + shown(path) + "' cannot be read: " + error.what());
    }
}

}  // namespace wsss::runner
