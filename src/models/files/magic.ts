/** Says what a file's first bytes look like, for messages about a wrong magic; undefined when nothing is known. */
export function describeMagic(head: Uint8Array): string | undefined {
  const text = new TextDecoder("latin1").decode(head.subarray(0, 64));
  const known = prefixes.find(([prefix]) => text.startsWith(prefix));
  if (known) return known[1];
  if (/^\s*<(!doctype html|html|head|\?xml)/i.test(text)) {
    return "a web page (HTML or XML), probably an error page saved by a download";
  }
  if (head.length >= 9 && head[8] === 0x7b && head[7] === 0 && head[6] === 0) return "a safetensors file";
  if (/^\s*[{[]/.test(text)) return "a JSON file";
  if (head.length > 0 && head.every((b) => b === 0))
    return "a file that begins with zeros (an unfinished download?)";
  return undefined;
}

const prefixes: readonly (readonly [prefix: string, meaning: string])[] = [
  ["GGUF", "a GGUF file"],
  ["FUGG", "a big-endian GGUF file"],
  ["version https://git-lfs", "a Git LFS pointer, not the model itself (run `git lfs pull`)"],
  ["PK\x03\x04", "a zip archive (perhaps a PyTorch checkpoint)"],
  ["\x1f\x8b", "a gzip archive"],
  ["\x28\xb5\x2f\xfd", "a zstd archive"],
  ["\xfd7zXZ", "an xz archive"],
  ["BZh", "a bzip2 archive"],
  ["\x7fELF", "an ELF executable"],
  ["\x80\x02", "a Python pickle (old PyTorch checkpoint)"],
  ["\x80\x04", "a Python pickle (old PyTorch checkpoint)"],
  ["\x89HDF", "an HDF5 file"],
  ["\x89PNG", "a PNG image"],
  ["lmgg", "a GGML file from before GGUF"],
  ["ggml", "a GGML file from before GGUF"],
  ["tjgg", "a GGJT file from before GGUF"],
  ["fmgg", "a GGMF file from before GGUF"],
  ["algg", "a GGLA adapter from before GGUF"],
];
