// wsss_runner ENGINE --out FOLDER IMAGE...: runs an exported TensorRT engine on images, one by one, and writes the maps.
//
// The order of work is the promise: the record beside the engine is read, the hashes of engine and plugin library are compared,
// and only then is anything of them loaded. Statuses are those of `wsss`: 0 done, 1 error, 2 wrong usage, 3 some images failed.

#include <cstdio>
#include <exception>
#include <set>

#include "engine.h"
#include "files.h"

namespace wsss::runner {
namespace {

namespace fs = std::filesystem;

constexpr char kUsage[] =
    "wsss_runner ENGINE --out FOLDER [--plugins LIBRARY] [--check] IMAGE...\n"
    "  ENGINE    of `wsss export --engine trt`; ENGINE.json must stand beside it\n"
    "  IMAGE     .ppm (P6), .npy of uint8 [H, W, 3], both RGB, or .npy of float32 [3, H, W], normalised already\n"
    "  --out     where IMAGE's maps are written, as STEM.OUTPUT.npy, float32 [C, h, w]\n"
    "  --plugins the library that an engine with plugin layers was built with\n"
    "  --check   stop before the engine is loaded, and write what it would be given, as STEM.image.npy\n";

struct WrongUsage : Failure {
    using Failure::Failure;
};

struct Job {
    fs::path engine, out, plugins;
    bool check = false;
    std::vector<fs::path> images;
};

Job read_arguments(int count, char** arguments) {
    Job job;
    bool options = true;
    for (int i = 1; i < count; ++i) {
        const std::string given = arguments[i];
        if (options && given == "--") {
            options = false;
        } else if (options && given == "--check") {
            job.check = true;
        } else if (options && (given == "--out" || given == "--plugins")) {
            if (++i == count) throw WrongUsage(given + " needs a value");
            (given == "--out" ? job.out : job.plugins) = arguments[i];
        } else if (options && given.size() > 1 && given[0] == '-') {
            throw WrongUsage("unknown option '" + shown(given) + "'");
        } else if (job.engine.empty()) {
            job.engine = given;
        } else {
            job.images.push_back(given);
        }
    }
    if (job.engine.empty() || job.images.empty() || job.out.empty()) throw WrongUsage("required: ENGINE, --out FOLDER and IMAGE");
    return job;
}

void check_plan(const Job& job, const std::string& plan, const Record& record) {
    if (sha256(plan) != record.engine_sha256)
        throw Failure("'" + shown(job.engine) +
                      "' is not the engine that its record tells of, and is not loaded. Hint: export it again");
}

void check_plugins(const Job& job, const Record& record) {
    if (record.plugins_sha256.empty() != job.plugins.empty())
        throw Failure(job.plugins.empty() ? "the engine has plugin layers. Hint: --plugins LIBRARY"
                                          : "the engine has no plugin layers");
    if (!job.plugins.empty() && sha256(read_file(job.plugins, uintmax_t{1} << 32)) != record.plugins_sha256)
        throw Failure("the engine was built with another plugin library than '" + shown(job.plugins) + "', which is not loaded");
}

fs::path result_path(const Job& job, const fs::path& image, const std::string& output) {
    return job.out / (image.stem().string() + "." + output + ".npy");
}

// Two images of one name, or a result in the place of anything that exists, would cost somebody a file.
void check_results(const Job& job, const std::vector<std::string>& outputs) {
    std::set<fs::path> known;
    for (const fs::path& image : job.images)
        for (const std::string& output : outputs) {
            const fs::path result = result_path(job, image, output);
            if (!known.insert(result).second) throw Failure("two images would be written to '" + shown(result) + "'");
            if (fs::exists(fs::symlink_status(result))) throw Failure("'" + shown(result) + "' exists. Hint: another --out");
        }
    std::error_code error;
    fs::create_directories(job.out, error);
    if (error) throw Failure("cannot write into '" + shown(job.out) + "': " + error.message());
}

Tensor image_within(const Record& record, const fs::path& path) {
    Tensor image = read_image(path, record);
    if (!record.takes(image.shape[1], image.shape[2]))
        throw Failure("'" + shown(path) + "' is 1x" + std::to_string(image.shape[1]) + "x" + std::to_string(image.shape[2]) +
                      ", the engine takes " + record.profile + " (batch x height x width; least, best, most)");
    return image;
}

int run(const Job& job) {
    const std::string plan = read_file(job.engine, uintmax_t{1} << 40);
    const Record record = read_record(job.engine.string() + ".json");
    check_plan(job, plan, record);
    check_plugins(job, record);
    const std::vector<std::string> outputs = job.check ? std::vector<std::string>{"image"} : record.outputs;
    check_results(job, outputs);
    std::printf("%s: %s, %s\n", shown(job.engine).c_str(), shown(record.made_with).c_str(), shown(record.profile).c_str());
    std::unique_ptr<Engine> engine;
    if (!job.check) engine = load_engine(plan, job.plugins.empty() ? "" : fs::absolute(job.plugins), outputs);
    size_t failed = 0;
    for (const fs::path& path : job.images) {
        Tensor image;
        try {
            image = image_within(record, path);
        } catch (const Failure& error) {
            std::fprintf(stderr, "wsss_runner: %s\n", error.what());
            ++failed;
            continue;
        }
        const std::vector<Tensor> results = engine ? engine->run(image) : std::vector<Tensor>{image};
        for (size_t i = 0; i < outputs.size(); ++i) {
            const fs::path result = result_path(job, path, outputs[i]);
            write_npy(result, results[i]);
            std::printf("%s\n", shown(result).c_str());
        }
    }
    if (failed == 0) return 0;
    std::fprintf(stderr, "wsss_runner: %zu of %zu images failed\n", failed, job.images.size());
    return failed == job.images.size() ? 1 : 3;
}

}  // namespace
}  // namespace wsss::runner

int main(int count, char** arguments) {
    using namespace wsss::runner;
    try {
        return run(read_arguments(count, arguments));
    } catch (const WrongUsage& error) {
        std::fprintf(stderr, "wsss_runner: %s\n%s", error.what(), kUsage);
        return 2;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "wsss_runner: %s\n", error.what());
        return 1;
    }
}
