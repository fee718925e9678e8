// Reads JSON into one flat table: {"a": {"b": [5, "x"]}} gives a.b.0 = 5 and a.b.1 = x. A null is not in it.
#pragma once

#include <map>
#include <string>

namespace wsss::runner {

// Throws Failure for a text that is not JSON.
std::map<std::string, std::string> flat_json(const std::string& text);

}  // namespace wsss::runner
