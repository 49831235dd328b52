/* Vectors of texts in the browser: fetched in batches and kept, nearest pairs, ranking, and a map in two dimensions.
 *
 * Long computations give way to the page every few milliseconds, and end when the signal is aborted.
 */
"use strict";
(() => {
    const { api } = blankfill;
    const BATCH = 256; // texts of a request
    const MOST_KEPT = 30_000; // vectors
    const PATIENCE = 25; // milliseconds after which a computation gives way

    const known = new Map(); // model and text → Float32Array

    /** Return the vectors of texts, Float32Array each, of length 1. progress(done, all). Throws as `api`. */
    async function vectorsOf(model, texts, { signal, truncate = false, progress = () => {}, onRequest = () => {} } = {}) {
        const keyOf = (text) => `${model}\u0000${truncate}\u0000${text}`;
        const missing = [...new Set(texts)].filter((text) => !known.has(keyOf(text)));
        for (let begin = 0; begin < missing.length; begin += BATCH) {
            progress(begin, missing.length);
            const input = missing.slice(begin, begin + BATCH);
            const body = { model, input, encoding_format: "base64" };
            if (truncate) body.truncate = true;
            onRequest({ path: "/v1/embeddings", body });
            const { data } = await api("/v1/embeddings", body, { signal });
            for (const { index, embedding } of data) known.set(keyOf(input[index]), unit(decoded(embedding)));
        }
        progress(missing.length, missing.length);
        const result = texts.map((text) => known.get(keyOf(text)));
        for (const key of known.keys()) {
            if (known.size <= MOST_KEPT) break;
            known.delete(key);
        }
        return result;
    }

    /** Return the numbers of a vector: of base64, or as they are. */
    function decoded(embedding) {
        if (typeof embedding !== "string") return Float32Array.from(embedding);
        const bytes = Uint8Array.from(atob(embedding), (letter) => letter.charCodeAt(0));
        return new Float32Array(bytes.buffer);
    }

    function unit(vector) {
        const size = Math.sqrt(dot(vector, vector));
        return size > 0 ? vector.map((value) => value / size) : vector;
    }

    function dot(a, b) {
        let sum = 0;
        for (let k = 0; k < a.length; k += 1) sum += a[k] * b[k];
        return sum;
    }

    let began = 0;
    /** Give way to the page now and then; throws AbortError once the signal is aborted. */
    async function giveWay(signal) {
        signal?.throwIfAborted();
        if (performance.now() - began < PATIENCE) return;
        await new Promise((resolve) => { setTimeout(resolve); });
        began = performance.now();
        signal?.throwIfAborted();
    }

    /** Return the most similar pairs, `[similarity, i, j]`, best first. texts: pairs of equal ones are left out. */
    async function nearestPairs(vectors, texts, count, signal) {
        const best = [];
        let least = -Infinity;
        for (let i = 0; i < vectors.length; i += 1) {
            await giveWay(signal);
            for (let j = i + 1; j < vectors.length; j += 1) {
                const value = dot(vectors[i], vectors[j]);
                if (value <= least || texts[i] === texts[j]) continue;
                insert(best, [value, i, j], count);
                if (best.length === count) [least] = best.at(-1);
            }
        }
        return best;
    }

    /** Return the vectors that are most similar to one, `[similarity, i]`, best first. */
    function ranked(query, vectors, count) {
        const best = [];
        vectors.forEach((vector, i) => {
            const value = dot(query, vector);
            if (best.length < count || value > best.at(-1)[0]) insert(best, [value, i], count);
        });
        return best;
    }

    function insert(best, entry, count) {
        let at = best.length;
        while (at > 0 && best[at - 1][0] < entry[0]) at -= 1;
        best.splice(at, 0, entry);
        if (best.length > count) best.pop();
    }

    /**
     * Return the two directions in which vectors differ most and their mean, `{mean, axes}`, by power iteration. The
     * beginning is fixed, so that the same texts have the same map.
     */
    async function principalAxes(vectors, signal) {
        const width = vectors[0].length;
        const mean = new Float64Array(width);
        for (const vector of vectors) for (let k = 0; k < width; k += 1) mean[k] += vector[k] / vectors.length;
        const axes = [];
        for (let number = 0; number < 2; number += 1) {
            let axis = Float64Array.from({ length: width }, (_, k) => Math.sin(k * 12.9898 + number * 78.233 + 1));
            orthogonal(axis, axes);
            for (let round = 0; round < 80; round += 1) {
                const next = new Float64Array(width);
                for (const vector of vectors) {
                    await giveWay(signal);
                    let along = 0;
                    for (let k = 0; k < width; k += 1) along += (vector[k] - mean[k]) * axis[k];
                    for (let k = 0; k < width; k += 1) next[k] += along * (vector[k] - mean[k]);
                }
                if (!orthogonal(next, axes)) break; // no difference is left
                const turned = 1 - Math.abs(dot(next, axis));
                axis = next;
                if (turned < 1e-9) break;
            }
            axes.push(axis);
        }
        return { mean, axes };
    }

    /** Take the parts along other axes out of one and scale it to length 1; returns whether anything was left. */
    function orthogonal(axis, others) {
        for (const other of others) {
            const along = dot(axis, other);
            for (let k = 0; k < axis.length; k += 1) axis[k] -= along * other[k];
        }
        const size = Math.sqrt(dot(axis, axis));
        if (size < 1e-12) return false;
        for (let k = 0; k < axis.length; k += 1) axis[k] /= size;
        return true;
    }

    /** Return the place of a vector on the map. */
    function placed(vector, { mean, axes }) {
        return axes.map((axis) => {
            let along = 0;
            for (let k = 0; k < vector.length; k += 1) along += (vector[k] - mean[k]) * axis[k];
            return along;
        });
    }

    /** Return some of a list, evenly spaced: at most `count` of its numbers. */
    const spread = (length, count) => (length <= count ? Array.from({ length }, (_, k) => k) : Array.from({ length: count }, (_, k) => Math.floor((k * length) / count)));

    blankfill.vectors = { vectorsOf, nearestPairs, ranked, principalAxes, placed, spread };
})();
