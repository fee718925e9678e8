// The backward half of prcm_cpu_body.h, which includes it. t = gate o g o cam, as in prcm.h.

// t = gate o g o cam of one class in one block of pixels, and the gate; 0 beyond the image
template <class T, class Sum>
void load_moves(const Work<Sum>& work, const Source<T>& grad, const Source<T>& cam, const Sum* gate, int64_t image, int64_t c,
                int64_t block, Sum* moves, Sum* gates) {
    alignas(64) Sum seed[kBlock];
    const int64_t first = block * kBlock, count = std::min(kBlock, work.pixels - first);
    const Sum* from = gate + (image * work.shape.c + c) * work.pixels + first;
    std::copy(from, from + count, gates);
    std::fill(gates + count, gates + kBlock, Sum(0));
    load_pixels(work, cam, image, c, block, seed);
    load_pixels(work, grad, image, c, block, moves);
    for (int64_t i = 0; i < kBlock; ++i) moves[i] *= seed[i] * gates[i];
}

// dS of one block of pixels in maps[c][pixel], and turned in weights
template <class T, class Sum>
void similarity_gradient(const Work<Sum>& work, const Source<T>& grad, const Source<T>& cam, const Sum* gate, int64_t slot,
                         int64_t image, int64_t block, Sum* maps) {
    alignas(64) Sum gates[kBlock], inner[kBlock] = {};
    const Sum scale = static_cast<Sum>(work.options.scale);
    if (work.options.over_classes)
        for (int64_t c = 0; c < work.shape.c; ++c) {
            load_moves(work, grad, cam, gate, image, c, block, maps, gates);
            for (int64_t i = 0; i < kBlock; ++i) inner[i] += maps[i];
        }
    for (int64_t c = 0; c < work.shape.c; ++c) {
        Sum* row = maps + c * kBlock;
        load_moves(work, grad, cam, gate, image, c, block, row, gates);
        if (!work.options.over_classes) std::fill(inner, inner + kBlock, work.row[slot * work.width + c]);
        for (int64_t i = 0; i < kBlock; ++i) row[i] = scale * (row[i] - gates[i] * inner[i]);
    }
    turn_into_weights(work, maps, slot, block);
}

// dquery = K^T dS of one block of pixels
template <class T, class Sum>
void query_gradient(const Work<Sum>& work, const Source<T>& query, int64_t slot, int64_t image, int64_t block, const Sum* maps,
                    Sum* tile, T* out) {
    const Shape& shape = work.shape;
    const int64_t pixel = block * kBlock, count = std::min(kBlock, work.pixels - pixel), width = work.width;
    alignas(64) Sum value[kBlock];
    for (int64_t first = 0; first < shape.c2; first += kChannels) {
        const int64_t rows = std::min(kChannels, shape.c2 - first);
        flushed_product<Sum, Finish::kStore>(
            rows, kBlock, shape.c, {work.keys + (slot * work.key_rows() + first) * width, width, 1, kPanel<Sum> * width},
            {maps, kBlock, kPanel<Sum>}, tile, kBlock);
        for (int64_t r = 0; r < rows; ++r) {
            Sum* row = tile + r * kBlock;
            if (work.options.rectify) {
                load_pixels(work, query, image, first + r, block, value);
                for (int64_t i = 0; i < kBlock; ++i) row[i] = value[i] <= 0 ? 0 : row[i];
            }
            T* to = out + (image * shape.c2 + first + r) * work.pixels + pixel;
            for (int64_t i = 0; i < count; ++i) store(to + i, row[i]);
        }
    }
}

// dkey of one image in the order of key, with the mask of its ReLU; and the proxies in padded rows
template <class Sum>
void key_gradient(const Work<Sum>& work, const Sum* key, const Sum* proxy, int64_t slot) {
    const Shape& shape = work.shape;
    const Sum* product = work.product + slot * work.product_channels() * work.width;
    Sum* gradient = work.key_gradient + slot * work.key_rows() * shape.c;
    for (int64_t d = 0; d < shape.c2; ++d)
        for (int64_t c = 0; c < shape.c; ++c) {
            const int64_t i = Options::key_index(shape, work.options.view, c, d);
            gradient[i] = key[i] <= 0 ? 0 : product[d * work.width + c];
        }
    std::fill(gradient + shape.c2 * shape.c, gradient + work.key_rows() * shape.c, Sum(0));
    Sum* rows = work.proxy + slot * shape.c * work.proxy_width();
    for (int64_t c = 0; c < shape.c; ++c)
        for (int64_t k = 0; k < work.proxy_width(); ++k)
            rows[c * work.proxy_width() + k] = k < shape.c1 ? proxy[c * shape.c1 + k] : 0;
}

template <class T, class Sum>
void run_backward(const Work<Sum>& work, const BackwardInputs& in, const Gradients& out) {
    const Shape& shape = work.shape;
    const Source<T> grad(in.grad), cam(in.cam), query(in.query);
    const Sum *gate = in.gate.as<const Sum>(), *key = in.key.as<const Sum>(), *proxy = in.proxy.as<const Sum>();
    const int64_t key_size = shape.c2 * shape.c, parts = ceil_div(shape.c2, kChannels), phi_width = work.proxy_width();
    const auto maps_of = [&](int worker) { return work.maps + worker * work.map_rows() * kBlock; };
    const auto tile_of = [&](int worker) { return work.query + worker * work.query_rows(true) * kBlock; };
    std::fill(work.phi, work.phi + work.key_rows() * phi_width, Sum(0));
    for (int64_t start = 0; start < shape.n; start += work.images) {
        for_parts(work, start, shape.c, [&](int64_t slot, int64_t image, int64_t c, int) {
            if (c == 0) arrange_keys(work, key + image * key_size, Sum(1), work.keys + slot * work.key_rows() * work.width);
            if (work.options.over_classes) return;
            alignas(64) Sum moves[kBlock], gates[kBlock];
            Vec<Sum> sum = {};
            for (int64_t block = 0; block < work.blocks; ++block) {
                load_moves(work, grad, cam, gate, image, c, block, moves, gates);
                for (int64_t i = 0; i < kBlock; i += kLanes<Sum>) sum += vector_at(moves + i);
            }
            work.row[slot * work.width + c] = sum_of<Sum>(sum);
        });
        for_runs(work, [&](int64_t first, int64_t blocks) {
            for_parts(work, start, blocks, [&](int64_t slot, int64_t image, int64_t index, int worker) {
                const int64_t block = first + index;
                similarity_gradient(work, grad, cam, gate, slot, image, block, maps_of(worker));
                if (out.query)
                    query_gradient(work, query, slot, image, block, maps_of(worker), tile_of(worker), out.query.as<T>());
            });
            if (!out.phi) return;
            for_parts(work, start, parts, [&](int64_t slot, int64_t image, int64_t part, int worker) {
                sum_over_pixels(work, query, shape.c2, false, work.options.rectify, slot, image, first, part, tile_of(worker));
            });
        });
        if (!out.phi) continue;
        for_parts(work, start, 1, [&](int64_t slot, int64_t image, int64_t, int) {
            key_gradient(work, key + image * key_size, proxy + image * shape.c * shape.c1, slot);
        });
        parallel_for(parts, work.threads, [&](int64_t part, int) {
            for (int64_t slot = 0; slot < std::min(work.images, shape.n - start); ++slot)
                flushed_product<Sum, Finish::kAdd>(std::min(kChannels, shape.c2 - part * kChannels), phi_width, shape.c,
                                                   {work.key_gradient + (slot * work.key_rows() + part * kChannels) * shape.c,
                                                    shape.c, 1, kPanel<Sum> * shape.c},
                                                   {work.proxy + slot * shape.c * phi_width, phi_width, kPanel<Sum>},
                                                   work.phi + part * kChannels * phi_width, phi_width);
        });
    }
    if (out.phi)
        for (int64_t d = 0; d < shape.c2; ++d)
            for (int64_t k = 0; k < shape.c1; ++k) store(out.phi.as<T>() + d * shape.c1 + k, work.phi[d * phi_width + k]);
}
