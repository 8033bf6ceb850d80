// The network, handed its memory of a product.

export const memoryOf = (product) => `memory-${product}`;

export async function network(engine, product, image, forced = -1) { // forced: sample to compare with; below 0: the nearest
  return engine.run("network", { image, forced, ...await engine.arrays(memoryOf(product)) });
}
