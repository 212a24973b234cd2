"""Wrong programs of segmentation, poisoning and boxes of weights."""

from mutations.mutant import Mutant

SEGMENTATION = "tests/certify/smoothing/test_segmentation.py"
POISONING = "tests/certify/poisoning/test_poisoning.py"
RUNOFF = "tests/certify/poisoning/test_runoff.py"
BOXES = "tests/bounds/graph/test_weight_box.py"

MUTANTS = (
    Mutant(
        "Holm's procedure goes on behind a hypothesis that stands",
        "bounds/statistics/multiple.py",
        "below.to(torch.int8).cumprod(dim=1).bool()",
        "below",
        "tests/bounds/statistics/test_multiple.py",
    ),
    Mutant(
        "Holm's procedure forgets how many hypotheses are left",
        "bounds/statistics/multiple.py",
        "round_up(ascending * left, 2.0**-52)",
        "ascending",
        "tests/bounds/statistics/test_multiple.py",
    ),
    Mutant(
        "pixels are tested at the radius 0",
        "certify/smoothing/outputs/segmentation.py",
        "self.noise.probability_needed_at(x.detach(), radius)",
        "self.noise.probability_needed_at(x.detach(), 0.0)",
        SEGMENTATION,
    ),
    Mutant(
        "the error of drawn noise is left out of tests of pixels",
        "certify/smoothing/outputs/segmentation.py",
        "round_up(threshold + error, 2.0**-52)",
        "round_up(threshold, 2.0**-52)",
        SEGMENTATION,
    ),
    Mutant(
        "a pixel without a certificate gets no other class",
        "certify/smoothing/outputs/segmentation_scores.py",
        "union + unsure.sum() - unsure",
        "union",
        SEGMENTATION,
    ),
    Mutant(
        "a tie goes to the larger class",
        "certify/poisoning/certificates.py",
        "(other > label).long()",
        "(other < label).long()",
        POISONING,
    ),
    Mutant(
        "a vote that changes is lost but won by nobody",
        "certify/poisoning/certificates.py",
        "gains = 1 + for_label.long() - (votes == other).long()",
        "gains = for_label.long()",
        POISONING,
    ),
    Mutant(
        "changes in the first round all count in the second",
        "certify/poisoning/runoff.py",
        "changed - turned",
        "changed",
        RUNOFF,
    ),
    Mutant(
        "a class must be first to enter the second round",
        "certify/poisoning/runoff.py",
        "- must <= changed",
        "<= changed",
        RUNOFF,
    ),
    Mutant(
        "the first round asks for one vote more than it does",
        "certify/poisoning/runoff.py",
        "lacking.topk(2, dim=2, largest=False).values.sum(2)",
        "lacking.topk(2, dim=2, largest=False).values.sum(2) + 1",
        RUNOFF,
    ),
    Mutant(
        "changes that both rounds need are counted once too few",
        "certify/poisoning/runoff.py",
        "useless = (must - (first * prefers[:, :, None]).sum(1)[:, None]).clamp(min=0)",
        "useless = must",
        RUNOFF,
    ),
    Mutant(
        "lower bounds of both rounds are added",
        "certify/poisoning/runoff.py",
        "torch.maximum(beats, enters)",
        "beats + enters",
        RUNOFF,
    ),
    Mutant(
        "a tie in the second round goes to the larger class",
        "certify/poisoning/runoff.py",
        "2 * for_small >= logits.shape[1]",
        "2 * for_small > logits.shape[1]",
        RUNOFF,
    ),
    Mutant(
        "a row is filed by its place",
        "certify/poisoning/partitions.py",
        "% parts\n    return torch",
        "% parts + 0 * i\n    found = np.arange(len(inputs)) % parts\n    return torch",
        POISONING,
    ),
    Mutant(
        "errors of biases are left out",
        "bounds/graph/uncertain.py",
        " + _bias_of(radius if radius.single is None else radius.single)",
        "",
        BOXES,
    ),
    Mutant(
        "weights outside of the box stay those of the model",
        "bounds/graph/uncertain.py",
        "_by_placeholder(graph, box.centers())),",
        "{}),",
        BOXES,
    ),
    Mutant(
        "backward passes forget errors of weights",
        "bounds/linear/network.py",
        "            if self.has_weight_error(name):\n                total = total + self.weight_error(name)\n",
        "",
        BOXES,
    ),
    Mutant(
        "intervals forget errors of weights",
        "bounds/linear/network.py",
        "            radius = radius + self.weight_error(node.name)",
        "            pass",
        BOXES,
    ),
    Mutant(
        "forward bounds forget errors of weights",
        "bounds/linear/forward.py",
        "            error = network.weight_error(node.name)\n",
        "            error = 0 * network.weight_error(node.name)\n",
        BOXES,
    ),
    Mutant(
        "a radius is that of one end",
        "bounds/graph/weight_box.py",
        "reach = round_up(torch.maximum(upper - center, center - lower), 2.0**-52)",
        "reach = (upper - lower) / 2",
        BOXES,
    ),
    Mutant(
        "quantised inputs have no error",
        "bounds/graph/uncertain.py",
        "        if self.dynamic:\n",
        "        if False:\n",
        "tests/certify/verification/test_quantised.py",
    ),
    Mutant(
        "a step of quantised inputs is one of 255",
        "bounds/graph/uncertain.py",
        "DYNAMIC_STEPS = 127",
        "DYNAMIC_STEPS = 255",
        BOXES,
    ),
    Mutant(
        "a transpose in the same memory counts as the same weight",
        "bounds/graph/uncertain.py",
        " and one.stride() == other.stride()",
        "",
        BOXES,
    ),
)
