"""An image classifier for a microcontroller: integers only, proven in TensorFlow Lite Micro, as C.

    python examples/microcontroller.py --model=pretrainedResnet.h5 --data_dir=cifar-10-batches-py

The network is the ResNet-8 of MLPerf Tiny (CIFAR-10, pixels 0..255); your own Keras model of images
takes its place. What a firmware engineer asks of a network is answered in this order: does the file
compute what was trained, on the very runtime of the chip; which operators have to be linked; how
much flash and RAM does it take; does it fit; where is the C file.

TensorFlow Lite Micro rounds otherwise than XNNPACK in some operators. The comparison knows the
rounding of its portable kernels: 0 mismatches there means that the accuracy printed for it is what
these give on the chip. A vendor's kernels (CMSIS-NN and others) have to be compared on their own.

Needs `pip install 'faq_keras[edge]'`. With `--bits=4` the weights are packed: less flash, and a
larger arena, into which the kernels unpack them.
"""

import argparse
import pathlib
import sys

import keras
import numpy as np

import faq_keras
from faq_keras.data import cifar10
from faq_keras.tflite import devices, inspect

SOURCES = {
    "model": "https://github.com/mlcommons/tiny (image_classification/trained_models)",
    "data_dir": "https://www.cs.toronto.edu/~kriz/cifar.html (the python version, unpacked)",
}


def arguments() -> argparse.Namespace:
    """What the command line says; ends the program if a file is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path, default="pretrainedResnet.h5")
    parser.add_argument("--data_dir", type=pathlib.Path, default="cifar-10-batches-py")
    parser.add_argument("--output", type=pathlib.Path, default=".", help="folder for the files")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--test_images", type=int, default=200, help="run on each runtime")
    parser.add_argument("--flash", type=int, default=256 * 1024, help="bytes there are for it")
    parser.add_argument("--ram", type=int, default=128 * 1024, help="bytes there are for it")
    args = parser.parse_args()
    for name, source in SOURCES.items():
        if not getattr(args, name).exists():
            sys.exit(f"--{name}={getattr(args, name)} is missing; get it from {source}.")
    args.output.mkdir(parents=True, exist_ok=True)
    return args


def resolver(path: pathlib.Path) -> str:
    """The C++ lines that link the operators of a file and no others."""
    rows = [row for row in inspect.rows(path) if row.op != "INPUT"]
    operators = sorted({row.op.split("+")[0] for row in rows})  # CONV_2D+relu is a CONV_2D
    lines = [f"tflite::MicroMutableOpResolver<{len(operators)}> resolver;"]
    for operator in operators:  # CONV_2D is linked by AddConv2D
        words = (word if word[0].isdigit() else word.title() for word in operator.split("_"))
        lines.append(f"resolver.Add{''.join(words)}();")
    return "\n".join(lines)


def c_array(content: bytes, name: str, arena: int) -> str:
    """The file as C and C++: a constant in flash, aligned as TensorFlow Lite Micro wants it."""
    rows = (content[i : i + 16] for i in range(0, len(content), 16))
    lines = ("  " + " ".join(f"0x{byte:02x}," for byte in row) for row in rows)
    return "\n".join(
        [
            "#include <stdalign.h>",
            f"extern const unsigned int {name}_arena_bytes, {name}_bytes;",
            f"extern const unsigned char {name}[];",
            f"const unsigned int {name}_arena_bytes = {arena};",
            f"const unsigned int {name}_bytes = {len(content)};",
            f"alignas(16) const unsigned char {name}[] = {{",
            *lines,
            "};\n",
        ]
    )


def main() -> None:
    """Quantizes, proves, measures, writes the C file."""
    args = arguments()
    data = cifar10.read(args.data_dir)
    x = data.x_test[: args.test_images].astype(np.float32)
    y = data.y_test[: args.test_images]
    model = keras.models.load_model(args.model, compile=False)
    correct = model.predict(x, verbose=0).argmax(axis=1) == y
    print(f"top-1 of the float network {100 * correct.mean():.2f} %")

    # Unlabelled images are enough; `faq_keras.fine_tune` after this line would go further.
    images = data.x_train[:640].astype(np.float32)
    q = faq_keras.apply(model, args.bits, calibration_data=images, reconstruct=images[:256])
    path = args.output / f"tiny_w{args.bits}.tflite"
    faq_keras.export_tflite(q, path, "int4" if args.bits <= 4 else "int8", verify=x)
    # XNNPACK against the Keras model, TFLM against the integers that its rounding must give;
    # `check` raises ParityError on any mismatch.
    print(faq_keras.verify(q, path, x, runtimes=("xnnpack", "tflm"), labels=y).check())

    print(resolver(path))
    micro = devices.measure(path, "tflm", devices.Options(num_runs=1, warmup_runs=1))
    print(f"TensorFlow Lite Micro: flash {micro.file_bytes:,} bytes, arena {micro.arena_bytes:,}")
    for name in ("ethos-u55-128", "ethos-u65-256"):  # the same file behind an NPU, estimated
        npu = devices.measure(path, "vela", devices.Options(vela_config=name))
        on_cpu = ", ".join(npu.cpu_ops or ()) or "none"
        print(f"{name}: SRAM {npu.sram_bytes:,} bytes, {npu.cycles:,} cycles, on the CPU: {on_cpu}")

    used = {"flash": micro.file_bytes, "ram": micro.arena_bytes}
    for memory, needed in used.items():
        if needed > (available := getattr(args, memory)):
            raise ValueError(f"The network takes {needed:,} bytes of {memory}, not {available:,}.")
    source = path.with_suffix(".c")
    source.write_text(c_array(path.read_bytes(), "faq_model", micro.arena_bytes))
    print(f"{source}: fits, {used['flash']:,} bytes of flash and {used['ram']:,} bytes of RAM")


if __name__ == "__main__":
    main()
