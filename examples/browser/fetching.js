// Files of this page, fetched with progress.

/**
 * Return the bytes of files, in their order; progress is called with the bytes so far and those of all.
 *
 * files have name and bytes, their length: a host that compresses does not tell it.
 */
export async function fetchAll(files, progress) {
  const total = files.reduce((sum, file) => sum + file.bytes, 0), done = files.map(() => 0);
  return Promise.all(files.map((file, i) => fetchOne(file, (bytes) => {
    done[i] = bytes;
    progress(done.reduce((sum, part) => sum + part, 0), total);
  })));
}

async function fetchOne(file, progress) {
  // What the browser's cache has of a download that broke off is not what the host has: it is asked once more.
  const bytes = await read(file, progress, "default") ?? await read(file, progress, "reload");
  if (!bytes) throw new Error(`the file ${file.name} of this page came only in part`);
  return bytes;
}

/** Return the bytes of a file, null if there are fewer than it should have. */
async function read({ name, bytes: length }, progress, cache) {
  const response = await fetch(name, { cache });
  if (!response.ok) throw new Error(`the file ${name} of this page cannot be had (${response.status})`);
  const bytes = new Uint8Array(length), reader = response.body.getReader();
  let at = 0;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (at + part.value.length > length) throw new Error(`the file ${name} of this page is another one`);
    bytes.set(part.value, at);
    at += part.value.length;
    progress(at);
  }
  return at < length ? null : bytes;
}
