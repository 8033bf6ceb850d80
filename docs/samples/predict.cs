// Judge photos with a file of `memseg export`, in C#: needs the package Microsoft.ML.OnnxRuntime
// predict bottle.onnx PHOTO ...
// System.Drawing, which reads the photos, works on Windows and in Mono; elsewhere write `Read` with ImageSharp, say.

using System;
using System.Collections.Generic;
using System.Drawing;
using System.Drawing.Imaging;
using System.Globalization;
using System.Linq;
using System.Runtime.InteropServices;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

static class Predict
{
    // Weights of one side: bilinear, over as many pixels as the shrinking needs.
    static KeyValuePair<int, double[]>[] Weights(int from, int to)
    {
        double scale = (double)from / to, reach = Math.Max(scale, 1);
        return Enumerable.Range(0, to).Select(k =>
        {
            double centre = (k + 0.5) * scale;
            int first = Math.Max(0, (int)Math.Floor(centre - reach + 0.5));
            int last = Math.Min(from, (int)Math.Floor(centre + reach + 0.5));
            var found = Enumerable.Range(first, last - first)
                .Select(x => Math.Max(0, 1 - Math.Abs(x + 0.5 - centre) / reach)).ToArray();
            return new KeyValuePair<int, double[]>(first, found.Select(w => w / found.Sum()).ToArray());
        }).ToArray();
    }

    // One channel, rows first, to another size.
    static float[] Resize(float[] pixels, int width, int height, int newWidth, int newHeight)
    {
        var across = Weights(width, newWidth);
        var down = Weights(height, newHeight);
        float[] narrow = new float[height * newWidth], small = new float[newHeight * newWidth];
        for (int y = 0; y < height; y++)
            for (int x = 0; x < newWidth; x++)
                narrow[y * newWidth + x] = (float)across[x].Value
                    .Select((w, k) => w * pixels[y * width + across[x].Key + k]).Sum();
        for (int y = 0; y < newHeight; y++)
            for (int x = 0; x < newWidth; x++)
                small[y * newWidth + x] = (float)down[y].Value
                    .Select((w, k) => w * narrow[(down[y].Key + k) * newWidth + x]).Sum();
        return small;
    }

    // A photo, upright and on white: its red, green and blue values, 0..1, and its size.
    static float[][] Read(string path, out int width, out int height)
    {
        using (var photo = new Bitmap(path))
        {
            var turns = new[] { RotateFlipType.RotateNoneFlipNone, RotateFlipType.RotateNoneFlipX,
                RotateFlipType.Rotate180FlipNone, RotateFlipType.Rotate180FlipX, RotateFlipType.Rotate90FlipX,
                RotateFlipType.Rotate90FlipNone, RotateFlipType.Rotate270FlipX, RotateFlipType.Rotate270FlipNone };
            int held = photo.PropertyIdList.Contains(0x112) // EXIF: how the camera was held, 1 to 8, in two bytes
                ? photo.GetPropertyItem(0x112).Value.Max() : 1;
            if (held >= 1 && held <= 8) photo.RotateFlip(turns[held - 1]);
            width = photo.Width;
            height = photo.Height;
            using (var flat = new Bitmap(width, height, PixelFormat.Format24bppRgb))
            {
                using (var canvas = Graphics.FromImage(flat))
                {
                    canvas.Clear(Color.White);
                    canvas.DrawImage(photo, new Rectangle(0, 0, width, height));
                }
                var data = flat.LockBits(new Rectangle(0, 0, width, height), ImageLockMode.ReadOnly, flat.PixelFormat);
                var bytes = new byte[data.Stride * height];
                Marshal.Copy(data.Scan0, bytes, 0, bytes.Length);
                flat.UnlockBits(data);
                int row = width, size = width * height;
                return new[] { 2, 1, 0 }.Select(c => Enumerable.Range(0, size) // blue stands first
                    .Select(k => bytes[k / row * data.Stride + k % row * 3 + c] / 255f).ToArray()).ToArray();
            }
        }
    }

    static int Main(string[] words)
    {
        if (words.Length < 2)
        {
            Console.Error.WriteLine("needs a file of memseg export, and photos");
            return 2;
        }
        using (var session = new InferenceSession(words[0]))
        {
            var facts = session.ModelMetadata.CustomMetadataMap;
            int height = int.Parse(facts["height"]), width = int.Parse(facts["width"]);
            double threshold = double.Parse(facts["threshold"], CultureInfo.InvariantCulture);
            foreach (var path in words.Skip(1))
            {
                int photoWidth, photoHeight;
                var image = Read(path, out photoWidth, out photoHeight)
                    .SelectMany(one => Resize(one, photoWidth, photoHeight, width, height)).ToArray();
                var input = new DenseTensor<float>(image, new[] { 1, 3, height, width });
                using (var answer = session.Run(new[] { NamedOnnxValue.CreateFromTensor("image", input) }))
                {
                    float score = answer.First(one => one.Name == "score").AsTensor<float>().First();
                    Console.WriteLine(string.Format(CultureInfo.InvariantCulture, "{0}: {1}: {2:F6}", path,
                        score > threshold ? "defective" : "good", score));
                }
            }
        }
        return 0;
    }
}
