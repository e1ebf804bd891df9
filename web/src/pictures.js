// A file becomes what the tokenizer reads: 28x28 grey pixels, padded to 32x32, in [-1, 1].

const INNER = 28;
const SIDE = 32;

export async function readPicture(file) {
  const bitmap = await createImageBitmap(file);
  const side = Math.min(bitmap.width, bitmap.height);
  const [left, above] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  const context = new OffscreenCanvas(SIDE, SIDE).getContext("2d");
  context.fillRect(0, 0, SIDE, SIDE);
  context.imageSmoothingQuality = "high";
  const pad = (SIDE - INNER) / 2;
  context.drawImage(bitmap, left, above, side, side, pad, pad, INNER, INNER);
  bitmap.close();
  const { data } = context.getImageData(0, 0, SIDE, SIDE);
  return Float32Array.from({ length: SIDE * SIDE }, (_, i) => {
    const [red, green, blue] = data.subarray(4 * i, 4 * i + 3);
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 127.5 - 1;
  });
}
