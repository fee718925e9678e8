#include "json.h"

#include <cctype>
#include <cstring>

#include "files.h"

namespace wsss::runner {
namespace {

class Reader {
public:
    explicit Reader(const std::string& text) : next_(text.c_str()), end_(next_ + text.size()) {}

    std::map<std::string, std::string> all() {
        value("", 0);
        if (peek() != '\0' || next_ != end_) fail();
        return std::move(table_);
    }

private:
    static constexpr int kDeepest = 64;

    void value(const std::string& name, int depth) {
        const char first = peek();
        if (depth > kDeepest) fail();
        if (first == '{')
            entries('}', [&](size_t) {
                const std::string key = peek() == '"' ? string() : fail();
                if (peek() != ':') fail();
                ++next_;
                value(joined(name, key), depth + 1);
            });
        else if (first == '[')
            entries(']', [&](size_t index) { value(joined(name, std::to_string(index)), depth + 1); });
        else if (first == '"')
            table_[name] = string();
        else
            scalar(name);
    }

    template <class Entry>
    void entries(char closing, Entry&& entry) {
        ++next_;
        for (size_t index = 0; peek() != closing; ++index) {
            if (index > 0 && *next_++ != ',') fail();
            entry(index);
        }
        ++next_;
    }

    std::string string() {
        static constexpr char kNames[] = "\"\\/bfnrt", kMeant[] = "\"\\/\b\f\n\r\t";
        std::string text;
        for (++next_; *next_ != '"'; ++next_) {
            if (static_cast<unsigned char>(*next_) < 0x20) fail();  // so is the zero after the text
            if (*next_ != '\\') {
                text += *next_;
            } else if (*++next_ == 'u') {
                for (int digits = 0; digits < 4; ++digits)
                    if (!std::isxdigit(static_cast<unsigned char>(*++next_))) fail();
                text += '?';  // stands in names of classes, which are not looked at here
            } else {
                const char* known = *next_ == '\0' ? nullptr : std::strchr(kNames, *next_);
                text += known ? kMeant[known - kNames] : fail()[0];
            }
        }
        ++next_;
        return text;
    }

    // A number, true, false or null; whoever uses it says what it must be.
    void scalar(const std::string& name) {
        const char* from = next_;
        while (std::isalnum(static_cast<unsigned char>(*next_)) || (*next_ != '\0' && std::strchr("+-.", *next_))) ++next_;
        const std::string word(from, next_);
        if (word.empty()) fail();
        if (word != "null") table_[name] = word;
    }

    char peek() {
        while (*next_ != '\0' && std::strchr(" \n\r\t", *next_)) ++next_;
        return *next_;
    }
    static std::string joined(const std::string& name, const std::string& key) { return name.empty() ? key : name + "." + key; }
    [[noreturn]] static std::string fail() { throw Failure("it is not JSON"); }

    const char* next_;  // the text ends with a zero, at which every step above stops
    const char* end_;
    std::map<std::string, std::string> table_;
};

}  // namespace

std::map<std::string, std::string> flat_json(const std::string& text) {
    return Reader(text).all();
}

}  // namespace wsss::runner
