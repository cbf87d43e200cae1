"""Where the built-in components are: kind -> name -> import path. It imports nothing, so that `--help` can list the names."""

_PATHS, _COUPLINGS, _SOLVERS = "flowkit.flow.paths", "flowkit.flow.couplings", "flowkit.flow.solvers"
BUILT_IN: dict[str, dict[str, str]] = {
    "objective": {
        "flow_matching": "flowkit.flow.objective:FlowMatching",
        "mean_flow": "flowkit.flow.mean_flow:MeanFlow",
        "distillation": "flowkit.flow.distillation:Distillation",
    },
    "path": {
        "linear": f"{_PATHS}.gaussian:Linear",
        "cosine": f"{_PATHS}.gaussian:Cosine",
        "vp": f"{_PATHS}.gaussian:VariancePreserving",
        "icfm": f"{_PATHS}.bridges:ConstantBridge",
        "schrodinger_bridge": f"{_PATHS}.bridges:SchrodingerBridge",
        "spherical": f"{_PATHS}.spherical:Spherical",
    },
    "coupling": {
        "independent": f"{_COUPLINGS}.coupling:Independent",
        "ot": f"{_COUPLINGS}.ot:OptimalTransport",
        "sinkhorn": f"{_COUPLINGS}.sinkhorn:Sinkhorn",
        "c2ot": f"{_COUPLINGS}.c2ot:ConditionalOptimalTransport",
        "paired": f"{_COUPLINGS}.coupling:Paired",
    },
    "times": {
        "uniform": "flowkit.flow.times:Uniform",
        "logit_normal": "flowkit.flow.times:LogitNormal",
        "shifted": "flowkit.flow.times:Shifted",
    },
    "weights": {
        "uniform": "flowkit.flow.weights:UniformWeights",
        "min_snr": "flowkit.flow.weights:MinSNR",
        "bins": "flowkit.flow.weights:BinWeights",
    },
    "error": {
        "squared": "flowkit.flow.error:Squared",
        "pseudo_huber": "flowkit.flow.error:PseudoHuber",
        "l1": "flowkit.flow.error:Absolute",
    },
    "solver": {
        "euler": f"{_SOLVERS}.fixed:Euler",
        "midpoint": f"{_SOLVERS}.fixed:Midpoint",
        "heun": f"{_SOLVERS}.fixed:Heun",
        "rk4": f"{_SOLVERS}.fixed:RK4",
        "ab2": f"{_SOLVERS}.multistep:AdamsBashforth",
        "dpm": f"{_SOLVERS}.multistep:DPMSolver",
        "dopri5": f"{_SOLVERS}.dopri5:Dopri5",
        "sde": f"{_SOLVERS}.sde:SDE",
        "mean_flow": f"{_SOLVERS}.mean_flow:MeanFlowSolver",
    },
    "grid": {
        "uniform": "flowkit.flow.grids:Uniform",
        "shifted": "flowkit.flow.grids:Shifted",
        "power": "flowkit.flow.grids:Power",
        "custom": "flowkit.flow.grids:Custom",
    },
    "guidance": {
        "cfg": "flowkit.flow.guidance:ClassifierFree",
        "cfg_zero": "flowkit.flow.guidance:CFGZero",
        "autoguidance": "flowkit.flow.guidance:Autoguidance",
    },
    "normalizer": {
        "auto": "flowkit.data.normalizers.base:Auto",
        "none": "flowkit.data.normalizers.affine:Plain",
        "global": "flowkit.data.normalizers.affine:Global",
        "zscore": "flowkit.data.normalizers.affine:ZScore",
        "robust": "flowkit.data.normalizers.affine:Robust",
        "whitening": "flowkit.data.normalizers.whitening:Whitening",
        "strokes": "flowkit.sketch.normalizer:Strokes",
    },
    "arch": {
        "bezier_sketch_dit": "flowkit.models.bezier_sketch_dit:BezierSketchDiT",
        "bezier_sketch_transformer": "flowkit.models.bezier_sketch_transformer:BezierSketchTransformer",
        "mlp": "flowkit.models.mlp:SimpleMLP",
        "dit": "flowkit.models.dit:DiTVelocityNetwork",
        "selu_mlp": "flowkit.models.selu_mlp:SeluMLP",
        "residual_mlp": "flowkit.models.residual_mlp:ResidualMLP",
        "custom": "flowkit.components:Custom",
    },
    "loss": {
        "smoothness": "flowkit.sketch.losses:smoothness",
        "bending": "flowkit.sketch.losses:bending",
        "degenerate": "flowkit.sketch.losses:degenerate",
        "raster": "flowkit.sketch.losses:raster",
    },
    "tracker": {},  # accelerate's have its names
    "encoder": {},  # flowkit.encoders has their names: not a choice in a recipe
    "domain": {
        "sketch": "flowkit.sketch.domain:SketchDomain",
        "points": "flowkit.points.domain:PointsDomain",
        "text": "flowkit.text.domain:TextDomain",  # after those above: `prepare` asks in this order, and it reads any text
        "array": "flowkit.domain:Domain",
    },
}
# `kind` as data files and checkpoints store it, by the name of the domain, where the two differ.
STORED_KINDS = {"text": "embedding"}
# What a component from outside is a subclass of.
BASES = {
    "objective": "flowkit.flow.objective:Objective",
    "path": "flowkit.flow.paths:Path",
    "coupling": "flowkit.flow.couplings:Coupling",
    "times": "flowkit.flow.times:Times",
    "weights": "flowkit.flow.weights:Weights",
    "error": "flowkit.flow.error:Error",
    "solver": "flowkit.flow.solvers:Solver",
    "grid": "flowkit.flow.grids:Grid",
    "guidance": "flowkit.flow.guidance:Guidance",
    "normalizer": "flowkit.data.normalizers:Normalization",
    "arch": "torch.nn:Module",
    "domain": "flowkit.domain:Domain",
    "tracker": "accelerate.tracking:GeneralTracker",
    "encoder": "flowkit.encoders:Encoder",
}


def domain_name(kind: str) -> str:
    """Return the domain's name for a kind as files store it."""
    return next((name for name, stored in STORED_KINDS.items() if stored == kind), kind)
