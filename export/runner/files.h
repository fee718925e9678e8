// Files as a whole: read up to a bound, written under another name first so that a name never stands for half a file.
#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>

namespace wsss::runner {

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A name as it is shown: no control characters, which could steer a terminal.
std::string shown(const std::filesystem::path& path);
std::string read_file(const std::filesystem::path& path, uintmax_t most_bytes);
void write_file(const std::filesystem::path& path, const std::string& head, const void* data, size_t bytes);
std::string sha256(const std::string& bytes);

}  // namespace wsss::runner
