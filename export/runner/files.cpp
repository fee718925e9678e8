#include "files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>

namespace wsss::runner {
namespace {

void write_all(int file, const void* data, size_t bytes, const std::string& name) {
    const char* next = static_cast<const char*>(data);
    while (bytes > 0) {
        const ssize_t written = ::write(file, next, bytes);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) throw Failure("cannot write '" + name + "': " + std::strerror(errno));
        next += written;
        bytes -= static_cast<size_t>(written);
    }
}

constexpr std::array<uint32_t, 64> kRound = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t turned(uint32_t x, int bits) {
    return (x >> bits) | (x << (32 - bits));
}

void add_block(std::array<uint32_t, 8>& state, const unsigned char* block) {
    std::array<uint32_t, 64> w{};
    for (int i = 0; i < 16; ++i)
        w[i] =
            uint32_t{block[4 * i]} << 24 | uint32_t{block[4 * i + 1]} << 16 | uint32_t{block[4 * i + 2]} << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; ++i) {
        const uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (turned(a, 7) ^ turned(a, 18) ^ a >> 3) + w[i - 7] + (turned(b, 17) ^ turned(b, 19) ^ b >> 10);
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (int i = 0; i < 64; ++i) {
        const uint32_t first = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + kRound[i] + w[i];
        const uint32_t second = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
    }
    const std::array<uint32_t, 8> added = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; ++i) state[i] += added[i];
}

}  // namespace

std::string shown(const std::filesystem::path& path) {
    std::string name = path.string();
    for (char& c : name)
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
    return name;
}

std::string read_file(const std::filesystem::path& path, uintmax_t most_bytes) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) throw Failure("'" + shown(path) + "' is not a file");
    const uintmax_t size = std::filesystem::file_size(path, error);
    if (error) throw Failure("cannot read '" + shown(path) + "': " + error.message());
    if (size > most_bytes) throw Failure("'" + shown(path) + "' is larger than " + std::to_string(most_bytes) + " bytes");
    std::string bytes(size, '\0');
    std::ifstream file(path, std::ios::binary);
    if (!file.read(bytes.data(), static_cast<std::streamsize>(size))) throw Failure("cannot read '" + shown(path) + "'");
    return bytes;
}

void write_file(const std::filesystem::path& path, const std::string& head, const void* data, size_t bytes) {
    std::string part = (path.parent_path() / ".wsss-XXXXXX").string();
    const int file = ::mkostemp(part.data(), O_CLOEXEC);
    if (file < 0) throw Failure("cannot write '" + shown(path) + "': " + std::strerror(errno));
    try {
        write_all(file, head.data(), head.size(), shown(path));
        write_all(file, data, bytes, shown(path));
        const mode_t mask = ::umask(0);
        ::umask(mask);
        const bool kept = ::fchmod(file, 0666 & ~mask) == 0 && ::fsync(file) == 0;
        if (!kept || ::rename(part.c_str(), path.c_str()) != 0)
            throw Failure("cannot write '" + shown(path) + "': " + std::strerror(errno));
    } catch (...) {
        ::close(file);
        ::unlink(part.c_str());
        throw;
    }
    ::close(file);
}

std::string sha256(const std::string& bytes) {
    std::array<uint32_t, 8> state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
    const size_t whole = bytes.size() / 64 * 64;
    for (size_t at = 0; at < whole; at += 64) add_block(state, data + at);
    // the rest, one bit that ends it, zeros, and the length in bits
    std::string tail = bytes.substr(whole) + '\x80';
    tail.resize(tail.size() <= 56 ? 56 : 120, '\0');
    for (int shift = 56; shift >= 0; shift -= 8) tail += static_cast<char>(uint64_t{bytes.size()} * 8 >> shift & 255);
    for (size_t at = 0; at < tail.size(); at += 64) add_block(state, reinterpret_cast<const unsigned char*>(tail.data()) + at);
    std::string hex;
    for (uint32_t word : state)
        for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[word >> shift & 15];
    return hex;
}

}  // namespace wsss::runner
