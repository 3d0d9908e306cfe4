"""What the tools of devices print, in the form of the real ones, with figures of our own.

The forms are those of benchmark_model (TensorFlow 2.3, 2.8 and LiteRT with XNNPACK's own profile)
and of edgetpu_compiler 16.0.
"""

PLAIN = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Num threads: [2]
INFO: Loaded model /data/local/tmp/m.tflite
INFO: Initialized TensorFlow Lite runtime.
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
VERBOSE: Replacing 14 out of 16 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 2 partitions for subgraph 0.
INFO: The input model file size (MB): 0.010288
INFO: Initialized session in 119.515ms.
INFO: Running benchmark for at least 5 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
INFO: count=5 first=87112 curr=51629 min=51629 max=87112 avg=58147.4 std=11478 p5=51629 median=51962 p95=87112

INFO: Running benchmark for at least 50 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=52162 curr=49785 min=49088 max=86105 avg=52743.2 std=716 p5=49620 median=51891 p95=68628

INFO: Inference timings in us: Init: 119515, First inference: 87112, Warmup (avg): 58147.4, Inference (avg): 52743.2
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory footprint of the model at runtime. Take the information at your discretion.
INFO: Memory footprint delta from the start of the tool (MB): init=5.25 overall=8.5
"""  # noqa: E501

# TensorFlow 2.3: no prefixes, no percentiles, another word for the memory.
OLD = """\
Initialized session in 1451.51ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=56 first=11147 curr=8146 min=7055 max=12036 avg=8779.68 std=1115

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=110 first=8325 curr=10016 min=7863 max=10688 avg=8680.33 std=591

Inference timings in us: Init: 1451507, First inference: 11147, Warmup (avg): 8779.68, Inference (avg): 8680.33
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory footprint of the model at runtime. Take the information at your discretion.
Peak memory footprint (MB): init=63.5 overall=63.5
"""  # noqa: E501

ONE_RUN = """\
count=1 curr=3512391

count=1 curr=2990275

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, Inference (avg): 2.99028e+06
"""  # noqa: E501

_PROFILE_HEAD = """\
Profiling Info for Benchmark Initialization:
============================== Run Order ==============================
\t             [node type]\t          [start]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t         AllocateTensors\t            0.000\t    1.356\t    1.356\t100.000%\t100.000%\t     0.000\t        1\tAllocateTensors/0

Number of nodes executed: 1

Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
"""  # noqa: E501

# With a column for the start of each operator, and without a delegate.
PROFILE = (
    ONE_RUN
    + _PROFILE_HEAD
    + """\
\t             [node type]\t          [start]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t                 CONV_2D\t            0.066\t   87.754\t   60.957\t  2.066%\t  2.066%\t     0.000\t        1\t[net/conv/Relu6]:0
\t       DEPTHWISE_CONV_2D\t           61.033\t   53.628\t   49.870\t  1.691%\t  3.757%\t     0.000\t        1\t[net/depthwise/Relu6]:1
\t                 SOFTMAX\t         2950.011\t    0.230\t    0.233\t  0.008%\t100.000%\t     0.000\t        1\t[net/softmax]:30

============================== Top by Computation Time ==============================
\t             [node type]\t          [start]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t                 CONV_2D\t            0.066\t   87.754\t   60.957\t  2.066%\t  2.066%\t     0.000\t        1\t[net/conv/Relu6]:0

Number of nodes executed: 3
"""  # noqa: E501
)

# Without that column, and with XNNPACK's own account of what it did.
DELEGATE_PROFILE = (
    PLAIN
    + _PROFILE_HEAD
    + """\
\t             [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t   TfLiteXNNPackDelegate\t    4.200\t    4.100\t 97.619%\t 97.619%\t     0.000\t        1\t[net/relu]:16
\t         FULLY_CONNECTED\t    0.110\t    0.100\t  2.381%\t100.000%\t     0.000\t        1\t[net/logits]:15

============================== Top by Computation Time ==============================
\t             [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\t   TfLiteXNNPackDelegate\t    4.200\t    4.100\t 97.619%\t 97.619%\t     0.000\t        1\t[net/relu]:16

Number of nodes executed: 2
Timings (microseconds): count=50 first=4310 curr=4200 min=4100 max=4400 avg=4200 std=10
Memory (bytes): count=0
2 nodes observed

Delegate internal:
============================== Run Order ==============================
\t             [node type]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t  [mem KB]\t[times called]\t[Name]
\tConvolution (NHWC, QC8)  \t    3.000\t    2.900\t 70.732%\t 70.732%\t     0.000\t        1\tDelegate/Convolution (NHWC, QC8):0
\t      Add (ND, QS8)      \t    1.200\t    1.200\t 29.268%\t100.000%\t     0.000\t        1\tDelegate/Add (ND, QS8):1

Number of nodes executed: 2
"""  # noqa: E501
)

EDGE_TPU_ALL = """\
Edge TPU Compiler version 16.0.384591198
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 152 ms.

Input model: model.tflite
Input size: 9.72KiB
Output model: model_edgetpu.tflite
Output size: 80.41KiB
On-chip memory used for caching model parameters: 12.50KiB
On-chip memory remaining for caching model parameters: 7.69MiB
Off-chip memory used for streaming uncached model parameters: 0.00B
Number of Edge TPU subgraphs: 1
Total number of operations: 7
Operation log: model_edgetpu.log

Operator                       Count      Status

CONV_2D                        5          Mapped to Edge TPU
ADD                            2          Mapped to Edge TPU
Compilation child process completed within timeout period.
Compilation succeeded!
"""

EDGE_TPU_SOME = EDGE_TPU_ALL.replace(
    """\

Operator                       Count      Status

CONV_2D                        5          Mapped to Edge TPU
""",
    """\

Model successfully compiled but not all operations are supported by the Edge TPU. A percentage of the model will instead run on the CPU, which is slower. If possible, consider updating your model to use only operations supported by the Edge TPU. For details, visit g.co/coral/model-reqs.
Number of operations that will run on Edge TPU: 6
Number of operations that will run on CPU: 1

Operator                       Count      Status

CONV_2D                        4          Mapped to Edge TPU
QUANTIZE                       1          Operation is otherwise supported, but not mapped due to some unspecified limitation
""",  # noqa: E501
)
