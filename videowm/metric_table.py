"""What a metric is, and every metric, described once; looked up through `videowm.metrics`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Better = Literal["higher", "lower", None]


@dataclass(frozen=True)
class Metric:
    """One metric, or a family of them whose name holds one `{}` for an action, a state column or a network."""

    name: str  # such as "fidelity/psnr" or "state/{}"
    what: str  # one sentence, and how good is good where that is known
    unit: str
    better: Better
    computed_in: str = ""  # module; where none is named, the room's own: "fidelity/psnr" in videowm.evaluate.fidelity
    ceiling: str | None = None  # what the best that a model could reach is
    floor: str | None = None  # what a model without any information gets
    sentence: str | None = None  # of the evaluation page, with {value}, and {of} for what a family's name holds
    others: Mapping[str, str] = field(default_factory=dict)  # suffix -> name, where it is not the name and the suffix

    def __post_init__(self) -> None:
        own = f"videowm.evaluate.{self.name.partition('/')[0]}"
        object.__setattr__(self, "computed_in", self.computed_in or own)

    def matches(self, name: str) -> bool:
        """Whether `name`, without bound suffixes, is this metric or of this family."""
        head, braces, tail = self.name.partition("{}")
        if not braces:
            return name == self.name
        return name.startswith(head) and name.endswith(tail) and len(name) > len(head) + len(tail)

    def of(self, name: str) -> str:
        """What stands for the `{}` of a family in `name`: "left" for "control/left_r2"; empty for a single metric."""
        head, braces, tail = self.name.partition("{}")
        return name.removeprefix(head).removesuffix(tail) if braces else ""


MSE = "MSE of normalised velocity"
THROUGH_VAE = "the truth through the autoencoder"
REPEATED = "the last context frame repeated"
READ_TRUTH = "the reader on the truth through the autoencoder; `_ceiling_real`: on the truth itself"
OTHER_ACTIONS = (
    "rollouts under another episode's actions; `_floor_zero`: under actions of zeros, which are actions and not their "
    "absence"
)
REAL_EVENTS = (
    "real video through the autoencoder; `_ceiling_real`: as it is, where every event is a mistake of the counter"
)
WATCHED = "the same heads on the real video through the autoencoder; the game itself has regret 0"
ALONE = "the heads on the start alone; `_floor_repeat`: the course that holds an action longest"
FACTS_FLOOR = (
    "the same facts of another episode's clip as the prompt; `_floor_empty`: no prompt, since some facts hold anyway"
)
FACTS_READ = "the reader on the real continuation through the autoencoder; `_ceiling_real`: on it as it is"
TEXT_FACTS = "videowm.evaluate.text_facts"
MEMORY = "the mean of other episodes' views; `_real`: the picture that was left, which a perfect memory would show"
PER_1000 = "per 1,000 frames"
OUTCOMES = "videowm.evaluate.outcomes"
LABELLED = "videowm.train.tasks.label"
CODED = "videowm.evaluate.codes"
IGNORED = "0, where the actions are ignored"

# One entry a metric; a family stands before another that its names would fit too.
# fmt: off
METRICS: tuple[Metric, ...] = (
    Metric("heldout/loss", "Velocity error of the model on a fixed bank of held-out latents, levels and noise; 2 "
           "predicts nothing, the quickstart reaches 0.74 to 0.38, the largest runs 0.22 and 0.10.", MSE, "lower"),
    Metric("heldout/action_gap", "What another episode's actions add to the held-out loss; below three standard errors "
           "the model ignores its actions.", MSE, "higher", floor=IGNORED),
    Metric("heldout/loss_without_text", "Held-out loss with the empty caption in place of each clip's own.", MSE,
           "lower"),
    Metric("heldout/text_gap", "What another episode's captions add to the held-out loss.", MSE, "higher",
           floor="0, where the text is ignored"),
    Metric("heldout/loss_by_step", "Held-out loss by target step of the window, after more and more context.", MSE,
           "lower"),
    Metric("heldout/loss_by_level", "Held-out loss by eighths of the noise level, from clean to pure noise.", MSE,
           "lower"),
    Metric("heldout/loss_by_episode", "What each held-out episode adds to the mean loss, for paired comparisons of two "
           "models.", MSE, "lower"),
    Metric("rollout/lead", "PSNR of the rollout over that of the repeated last frame; 0 is no better than a still "
           "picture, the quickstart reaches 1.5 to 2.8, the studies' largest runs 4 to 7.5.", "dB", "higher",
           "videowm.evaluate.rollouts", ceiling="what the autoencoder's own picture of the truth leads by: 7.0 and "
           "14.2 in the two studies", floor="0, the repeated last frame"),
    Metric("rollout/psnr_mean", "PSNR of rollouts against the true frames, averaged over the horizon.", "dB", "higher",
           "videowm.evaluate.rollouts", ceiling="rollout/psnr_vae_mean, the truth through the autoencoder",
           floor="rollout/psnr_repeat_mean, the last context frame repeated",
           others={"se": "rollout/psnr_se", "by_frame": "rollout/psnr",
                   "ceiling": "rollout/psnr_vae_mean", "floor": "rollout/psnr_repeat_mean"}),
    Metric("rollout/psnr", "PSNR of rollouts against the true frames, by predicted frame.", "dB", "higher",
           "videowm.evaluate.rollouts", ceiling="rollout/psnr_vae", floor="rollout/psnr_repeat",
           others={"ceiling": "rollout/psnr_vae", "floor": "rollout/psnr_repeat"}),
    Metric("rollout/psnr_vae_mean", "PSNR of the true frames through the autoencoder: what no rollout can exceed, "
           "averaged over the horizon.", "dB", "higher", "videowm.evaluate.rollouts",
           others={"se": "rollout/psnr_vae_se"}),
    Metric("rollout/psnr_vae", "PSNR of the true frames through the autoencoder: what no rollout can exceed, by frame.",
           "dB", "higher", "videowm.evaluate.rollouts"),
    Metric("rollout/psnr_repeat_mean", "PSNR of the last context frame repeated, averaged over the horizon.", "dB",
           "higher", "videowm.evaluate.rollouts", others={"se": "rollout/psnr_repeat_se"}),
    Metric("rollout/psnr_repeat", "PSNR of the last context frame repeated, by frame.", "dB", "higher",
           "videowm.evaluate.rollouts"),
    Metric("reconstruction/psnr", "PSNR of held-out clips through the autoencoder; a preset has 3 dB more than its "
           "floor.", "dB", "higher", floor="the PCA of blocks of pixels with the same latent shape"),
    Metric("reconstruction/ssim", "Structural similarity of held-out clips and their reconstruction.", "SSIM", "higher",
           ceiling="1", floor="the PCA of the same latent shape"),
    Metric("reconstruction/gradients", "Differences of neighbouring pixels over those of the true frames: below 1 the "
           "picture is blurred.", "share of the truth's", "higher", ceiling="1",
           floor="the PCA of the same latent shape"),
    Metric("reconstruction/psnr_motion", "PSNR of the differences of consecutive frames: whether motion is kept.", "dB",
           "higher", floor="the PCA of the same latent shape"),
    Metric("reconstruction/psnr_moved", "PSNR over the pixels that changed since the frame before.", "dB", "higher",
           floor="the PCA of the same latent shape"),
    Metric("reconstruction/clips", "How many held-out clips were reconstructed.", "clips", None),
    Metric("reconstruction/moved_clips", "In how many of these clips something moves.", "clips", None),
    Metric("keeps/clips", "How many held-out clips were looked at.", "clips", None),
    Metric("keeps/game", "Why no boxes of small things are known.", "text", None),
    Metric("keeps/picture_psnr", "PSNR of all pixels of held-out clips through the autoencoder, pooled over each clip.",
           "dB", "higher", floor="the PCA of the same latent shape",
           sentence="PSNR of the whole picture is {value} dB"),
    Metric("keeps/{}_psnr", "PSNR of the pixels within the simulator's boxes of one kind of thing, pooled over each "
           "clip in which it is seen.", "dB", "higher", floor="the PCA of the same latent shape",
           sentence="Within the boxes of each {of} it is {value} dB"),
    Metric("keeps/{}_share", "Share of all pixels that lies within the boxes of one kind of thing.", "share", None),
    Metric("keeps/{}_ratio", "The reader's error of one column on reconstructed video over that on real video; 1 "
           "loses nothing.", "ratio", "lower", ceiling="1",
           sentence="The reader's error of {of} through the autoencoder is {value} times that on real video"),
    Metric("keeps/{}_error", "Absolute error of an action or state column that the reader reads off reconstructed "
           "video.", "standard deviations", "lower", ceiling="`_ceiling_real`: the reader "
           "on real video", floor="the mean of the training data, whatever the video shows"),
    Metric("reader/{}_r2", "R² of one action or state column that the reader reads off real held-out frames; what it "
           "cannot read here it cannot read off rollouts.", "R²", "higher", "videowm.train.tasks.reader", ceiling="1",
           floor="0, the mean"),
    Metric("reader/{}_accuracy", "Share of real held-out frames in which the reader is right about a column that is 0 "
           "or 1.", "share right", "higher", "videowm.train.tasks.reader", ceiling="1"),
    Metric("label/{}_r2", "R² of an action's labels on held-out episodes, of its probability where it is 0 or 1.", "R²",
           "higher", LABELLED, ceiling="1", floor="0, the mean"),
    Metric("label/{}_accuracy", "Share of held-out rows whose label of an action that is 0 or 1 is right.",
           "share right", "higher", LABELLED, ceiling="1", floor="the more frequent value"),
    Metric("label/{}_calibration", "How far probabilities are off: from the frequency of a 1, or from the 90 % of true "
           "values that an interval is to hold.", "probability", "lower", LABELLED, ceiling="0"),
    Metric("label/delay", "By how many frames the labels run late on held-out episodes.", "frames", None, LABELLED,
           ceiling="0"),
    Metric("label/episodes", "Training episodes whose recorded actions were seen.", "episodes", None, LABELLED),
    Metric("label/hours", "The same, in hours of video.", "h", None, LABELLED),
    Metric("latent/loss", "Error of the next latent step as a discovered action predicts it, on held-out clips.",
           "MSE of normalised latents", "lower", CODED, floor="the same under another step's code"),
    Metric("latent/perplexity", "Discrete codes in use on held-out clips: the exponential of their entropy.", "codes",
           None, CODED, ceiling="all codes, evenly"),
    Metric("latent/delta_psnr", "PSNR of the next latent step under its own code, above that under another step's.",
           "dB", "higher", CODED, floor=IGNORED),
    Metric("latent/consistency", "Share of what codes change that a code explains whatever the state.", "share",
           "higher", CODED, ceiling="1", floor="one part of the states, by chance"),
    *(Metric(f"latent/{{}}_{score}_{kind}", f"{what} of {kind} probes on held-out episodes: of a true action, or all "
             "(action), told by the code; or of the code, told by true actions.", unit, "higher", CODED, ceiling="1",
             floor=floor) for kind in ("linear", "mlp") for score, what, unit, floor in (
                 ("r2", "R²", "R²", "0, the mean"), ("accuracy", "Accuracy", "share right", "the most frequent one"))),
    Metric("fidelity/psnr", "Peak signal-to-noise ratio of predicted frames and the true ones.", "dB", "higher",
           ceiling=THROUGH_VAE, floor=REPEATED, sentence="PSNR of the rollout is {value} dB"),
    Metric("fidelity/psnr_to_vae", "Peak signal-to-noise ratio of predicted frames and the autoencoder's picture of "
           "the true ones.", "dB", "higher", floor=REPEATED),
    Metric("fidelity/ms_ssim", "Multi-scale structural similarity of predicted frames and the true ones.", "MS-SSIM",
           "higher", ceiling=THROUGH_VAE, floor=REPEATED),
    Metric("fidelity/ms_ssim_to_vae", "Multi-scale structural similarity of predicted frames and the autoencoder's "
           "picture of the true ones.", "MS-SSIM", "higher", floor=REPEATED),
    Metric("fidelity/ssim", "Structural similarity of predicted frames and the true ones.", "SSIM", "higher",
           ceiling=THROUGH_VAE, floor=REPEATED),
    Metric("fidelity/ssim_to_vae", "Structural similarity of predicted frames and the autoencoder's picture of the "
           "true ones.", "SSIM", "higher", floor=REPEATED),
    Metric("fidelity/lpips", "Learned perceptual distance (AlexNet) of predicted frames and the true ones.", "LPIPS",
           "lower", ceiling=THROUGH_VAE, floor=REPEATED),
    Metric("fidelity/lpips_to_vae", "Learned perceptual distance (AlexNet) of predicted frames and the autoencoder's "
           "picture of the true ones.", "LPIPS", "lower", floor=REPEATED),
    Metric("fidelity/gradients", "Differences of neighbouring pixels over those of the true frames: below 1 the "
           "rollout is blurred.", "share of the truth's", "higher", ceiling=THROUGH_VAE,
           floor="the mean of all true clips", sentence="The rollout is as sharp as a share of {value} of the truth"),
    Metric("control/delta_psnr", "PSNR under the true actions minus PSNR under random ones (Genie, arXiv 2402.15391, "
           "section 3).", "dB", "higher", ceiling="the real game under the same random actions, through the "
           "autoencoder", floor=IGNORED, sentence="True actions instead of random ones are worth {value} dB"),
    Metric("control/r2", "R² of the requested actions as the reader reads them off the rollout, all columns pooled; 1 "
           "is every action seen, 0 is as good as their mean.", "R²", "higher", ceiling=READ_TRUTH, floor=OTHER_ACTIONS,
           sentence="R² of the requested actions, read off the rollout, is {value}"),
    Metric("control/{}_r2", "R² of one requested action as the reader reads it off the rollout.", "R²", "higher",
           ceiling=READ_TRUTH, floor=OTHER_ACTIONS),
    Metric("control/accuracy", "Share of requested actions whose class (up or down; low, middle or high) the reader "
           "finds in the rollout.", "share right", "higher", ceiling=READ_TRUTH, floor=OTHER_ACTIONS),
    Metric("control/delay", "By how many frames actions show later in the rollout than in real video.", "frames",
           "lower", ceiling="how late the autoencoder makes real video look", sentence="Actions show {value} frames "
           "late"),
    Metric("control/loss_ratio", "Held-out loss under another episode's actions over the loss under the true ones.",
           "ratio", "higher", floor="1, where the actions are ignored"),
    Metric("text/obeyed", "Share of a prompt's facts that the reader finds in the rollout, with actions absent, over "
           "prompts of all lengths.", "share", "higher", TEXT_FACTS, ceiling=FACTS_READ, floor=FACTS_FLOOR,
           sentence="Of the facts that a prompt names the rollout without actions shows a share of {value}"),
    Metric("text/{}_facts_obeyed", "The same of prompts with this number of facts.", "share", "higher", TEXT_FACTS,
           ceiling=FACTS_READ, floor=FACTS_FLOOR),
    Metric("text/{}_facts_all", "Share of starts in which all facts of such a prompt are found.", "share", "higher",
           TEXT_FACTS, ceiling=FACTS_READ, floor=FACTS_FLOOR),
    Metric("text/{}_obeyed", "Share of the prompts that name this fact in which it is found.", "share", "higher",
           TEXT_FACTS, ceiling=FACTS_READ, floor=FACTS_FLOOR),
    Metric("text/{}_free_share", "Share of starts in which the text moves the fact the right way and actions are "
           "absent.", "share", "higher", "videowm.evaluate.text_control", floor="0.5, by chance"),
    Metric("text/{}_free", "How much more of a fact the reader sees when the text asks for more instead of less, with "
           "actions absent, as training drops them.", "std. deviations", "higher", "videowm.evaluate.text_control",
           ceiling="real clips with the one phrase against those with the other, through the autoencoder; "
           "`_ceiling_real`: as they are", floor="captions of other clips, whatever they hold"),
    Metric("text/{}_share", "Share of starts in which the text moves the fact the right way.", "share", "higher",
           "videowm.evaluate.text_control", floor="0.5, by chance"),
    Metric("text/{}_refused", "Why a fact of the captions was not measured.", "text", None,
           "videowm.evaluate.text_control"),
    Metric("text/{}", "How much more of a fact the reader sees when the text asks for more instead of less, under the "
           "true actions.", "std. deviations", "higher", "videowm.evaluate.text_control", ceiling="real clips with the "
           "one phrase against those with the other, through the autoencoder; `_ceiling_real`: as they are",
           floor="captions of other clips, whatever they hold", sentence="Where the text asks for more {of} instead of "
           "less, the rollout has more by {value} standard deviations"),
    Metric("text/guidance", "Text guidance of the sampler with which text was measured.", "factor", None,
           "videowm.evaluate.text_control"),
    Metric("state/error", "Absolute error of the state that the reader reads off the rollout against the simulator's, "
           "mean over columns.", "std. deviations", "lower", ceiling="the reader's own error on the truth through the "
           "autoencoder; `_ceiling_real`: on the truth itself", floor=REPEATED, sentence="The state read off the "
           "rollout is off by {value} standard deviations"),
    Metric("state/{}", "Absolute error of one state column read off the rollout against the simulator's.",
           "std. deviations", "lower", ceiling="the reader's own error on the truth through the autoencoder; "
           "`_ceiling_real`: on the truth itself", floor=REPEATED),
    Metric("heads/reward_loss", "Squared error of the standardised reward of the next latent step, in training.", "MSE",
           "lower", "videowm.train.tasks.heads", floor="1, the mean reward"),
    Metric("heads/done_loss", "Cross-entropy of the place of an end in the next latent step, in training; ends count "
           "more.", "nats", "lower", "videowm.train.tasks.heads"),
    Metric("heads/state_loss", "Squared error of standardised state columns, read off latents, in training.", "MSE",
           "lower", "videowm.train.tasks.heads", floor="1, the mean state"),
    Metric("heads/state_{}_r2", "R² of a state column, read off held-out latents.", "R²", "higher", OUTCOMES,
           ceiling="1", floor="0, the mean"),
    Metric("heads/{}_reward_r2", "R² of the reward of the next latent step, of held-out latents (`real`) or of "
           "rollouts under the same actions (`dream`).", "R²", "higher", OUTCOMES, ceiling="1", floor="0, the mean"),
    Metric("heads/{}_reward_error", "Mean absolute error of that reward.", "reward", "lower", OUTCOMES),
    Metric("heads/{}_done_rate", "Share of the measured steps in which the game ended.", "share", None, OUTCOMES),
    Metric("heads/{}_done_precision", "Of the latent steps in which an end is read with a probability over one half, "
           "the share that had one.", "share", "higher", OUTCOMES, ceiling="1", floor="heads/{}_done_rate"),
    Metric("heads/{}_done_recall", "Of the latent steps with an end, the share in which one is read.", "share",
           "higher", OUTCOMES, ceiling="1"),
    Metric("heads/{}_done_auroc", "Chance that a step with an end is given a higher probability than one without.",
           "probability", "higher", OUTCOMES, ceiling="1", floor="0.5, by chance"),
    Metric("heads/{}_done_brier", "Squared error of the probability of an end.", "probability squared", "lower",
           OUTCOMES, floor="the base rate's own"),
    Metric("heads/{}_done_reliability", "By tenths of the probability that is read: its mean, the share that ended, "
           "and how many steps there are.", "probability, share and steps", None, OUTCOMES),
    Metric("heads/{}_done_delay", "How many frames after the real end the first end is read, mean; below 0 it comes "
           "too early.", "frames", None, OUTCOMES),
    Metric("heads/{}_done_delay_spread", "How many frames the first end that is read is off, mean.", "frames", "lower",
           OUTCOMES),
    Metric("decision/regret", "What the course of actions that the dream finds best earns less than the best one of "
           "the moment, over what a random one does.", "share", "lower", ceiling=WATCHED, floor=ALONE),
    Metric("decision/spearman", "Rank correlation (Spearman) of what the dream and the real game earn under the "
           "courses of a moment. Moments in which all earn the same are left out.", "correlation", "higher",
           ceiling=WATCHED, floor=ALONE),
    Metric("decision/kendall", "The same by Kendall's tau.", "correlation", "higher", ceiling=WATCHED, floor=ALONE),
    Metric("decision/auroc", "Chance that a course in which the game ends is given a higher probability of it than one "
           "in which it goes on; 0.5 by chance.", "probability", "higher", ceiling=WATCHED, floor=ALONE),
    Metric("decision/brier", "Squared error of the probability that the game ends within a course.",
           "probability squared", "lower", floor="the base rate's own"),
    Metric("decision/reliability", "By tenths of the probability that the game ends within a course: its mean, the "
           "share that ended, and how many courses there are.", "probability, share and courses", None),
    Metric("decision/calibration", "How far that probability is off the share that ended, mean over tenths.",
           "probability", "lower", "videowm.measure",
           sentence="The probability that a game ends within a course is off its real share by {value}"),
    Metric("decision/futures", "How many dreams of each course the probability is the mean of.", "dreams", None,
           "videowm.measure"),
    Metric("decision/error_shared", "Error of what courses earn that all courses of a moment share; no choice depends "
           "on it.", "reward", "lower"),
    Metric("decision/error_relative", "Error of what courses earn, beside what all courses of a moment share.",
           "reward", "lower", floor="what their real rewards differ by, the error of somebody who thinks all alike"),
    Metric("decision/moments", "How many real moments courses were played from.", "moments", None),
    Metric("decision/died", "Share of the courses in which the real game ended.", "share", None),
    Metric("decision/open", "Share of the moments in which the courses do not all earn the same.", "share", None),
    Metric("decision/seconds", "Time that playing and dreaming the courses took.", "seconds", None, "videowm.measure"),
    Metric("counterfactual/psnr", "PSNR of rollouts under forced actions against the real game under the same ones.",
           "dB", "higher", ceiling="the real future through the autoencoder", floor=REPEATED,
           sentence="Under forced actions the rollout is at {value} dB from the real game"),
    Metric("counterfactual/gain", "PSNR that a rollout under the forced actions gains over one under the recorded "
           "actions.", "dB", "higher", ceiling="what the real game gains, through the autoencoder", floor=IGNORED),
    Metric("counterfactual/{}_psnr", "PSNR against the real game under one forced action.", "dB", "higher",
           ceiling="the real future through the autoencoder", floor=REPEATED),
    Metric("counterfactual/{}_gain", "PSNR gained under one forced action over the recorded ones.", "dB", "higher",
           ceiling="what the real game gains, through the autoencoder", floor=IGNORED),
    Metric("counterfactual/{}_error", "Absolute error of a state column, or of all (`state`), read off rollouts under "
           "forced actions against the real game's.", "std. deviations", "lower",
           ceiling="the reader on the real future through the autoencoder; `_ceiling_real`: as it is",
           floor="the rollout that goes on under the recorded actions"),
    Metric("counterfactual/starts", "How many starts the real game was continued from.", "starts", None),
    Metric("counterfactual/left_out", "How many starts were left out, because the real game ended under a forced "
           "action.", "starts", None),
    Metric("counterfactual/game_seconds", "Time that playing the real game took.", "seconds", None,
           "videowm.evaluate.suite"),
    Metric("counterfactual/game", "Why the real game could not be played again.", "text", None,
           "videowm.evaluate.suite"),
    Metric("count/{}_error", "Absolute error of a number of things read off the rollout against the simulator's.",
           "things", "lower", "videowm.evaluate.counts", ceiling=READ_TRUTH, floor=REPEATED),
    Metric("count/{}_disappear", "How many things vanish from the rollout; near `_true` is good.", "per 100 frames",
           None, "videowm.evaluate.counts", ceiling=READ_TRUTH, floor=REPEATED),
    Metric("count/{}_appear", "How many things appear in the rollout; near `_true` is good.", "per 100 frames", None,
           "videowm.evaluate.counts", ceiling=READ_TRUTH, floor=REPEATED),
    Metric("leaks/events", "Events that the world's laws forbid, of all kinds that are counted.", PER_1000, "lower",
           ceiling=REAL_EVENTS, sentence="In 1,000 predicted frames {value} things happen that cannot happen"),
    Metric("leaks/{}_false", "Events of one kind that the counter sees in real held-out video, where none are.",
           PER_1000, "lower", "videowm.train.tasks.detector", ceiling="0"),
    Metric("leaks/{}_recall", "Share of events planted in real held-out video that the counter sees.", "share",
           "higher", "videowm.train.tasks.detector", ceiling="1"),
    Metric("leaks/{}_lost", "How often a thing that cannot vanish is gone, in open view, for some frames.", PER_1000,
           "lower", ceiling=REAL_EVENTS),
    Metric("leaks/{}_bent", "How often a thing that flies straight leaves its path.", PER_1000, "lower",
           ceiling=REAL_EVENTS),
    Metric("leaks/{}_outside", "How often the camera goes beyond the world's bounds.", PER_1000, "lower",
           ceiling=REAL_EVENTS),
    Metric("leaks/{}_jump", "How often the camera is elsewhere, farther than the game can go in that time.", PER_1000,
           "lower", ceiling=REAL_EVENTS),
    Metric("detector/{}_recall", "Share of the simulator's boxes of one kind of thing that are found in real held-out "
           "frames.", "share", "higher", "videowm.train.tasks.detector", ceiling="1"),
    Metric("detector/{}_precision", "Share of what is found there that is there.", "share", "higher",
           "videowm.train.tasks.detector", ceiling="1"),
    Metric("detector/{}_error", "Median absolute error of a bounded state column there.", "the column's unit", "lower",
           "videowm.train.tasks.detector", ceiling="0"),
    Metric("detector/frames", "How many held-out frames were looked at.", "frames", None,
           "videowm.train.tasks.detector"),
    Metric("centres", "Loss of the detector's map of centres.", "focal loss", "lower", "videowm.evaluate.detector"),
    Metric("boxes", "Mean absolute error of the detector's boxes.", "8 pixels",
           "lower", "videowm.evaluate.detector"),
    Metric("columns", "Mean squared error of the detector's standardised state columns.", "MSE", "lower",
           "videowm.evaluate.detector"),
    Metric("frechet/reader", "Fréchet distance (Heusel et al. 2017, equation 6) of predicted and real videos in the "
           "reader's features; no FVD, and only comparable within one dataset and reader.", "squared feature distance",
           "lower", ceiling="real video through the autoencoder; `_real`: real video against real, the lowest that "
           "this number of clips allows", floor=REPEATED, sentence="The Fréchet distance to real video, in the "
           "reader's features, is {value}"),
    Metric("frechet/{}", "Fréchet distance of predicted and real videos in the features of a named network.",
           "squared feature distance", "lower", ceiling="real video through the autoencoder; `_real`: real video "
           "against real, the lowest that this number of clips allows", floor=REPEATED),
    Metric("surprise/error", "Held-out loss by clip, of which the clips are ranked.", MSE, "lower"),
    Metric("surprise/top_tenth_share", "Share of all prediction error that lies in the worst tenth of the clips.",
           "share", None, floor="0.1, where all clips are alike"),
    Metric("surprise/ranked", "The worst predicted held-out clips: number, episode and error.", MSE, None),
    Metric("surprise/ranked_by_{}", "The clips with most error by one signal: number, episode and value.", MSE, None),
    Metric("surprise/television_{}", "What a place in the patch of pure noise holds of a signal, over the average of "
           "all places; 1 does not care, more is drawn to the noise.", "ratio", "lower",
           floor="1 for a signal that does not care"),
    Metric("returns/psnr", "PSNR of the rollout's frames behind a return to the view that the context showed.", "dB",
           "higher", ceiling=THROUGH_VAE, floor=MEMORY),
    Metric("returns/gap", "What that PSNR is below the same model's, at the same time, of a view that it never left.",
           "dB", "lower", ceiling="0, where nothing is lost by leaving"),
    Metric("returns/kept", "Where that PSNR lies between the mean of other episodes' views (0) and the autoencoder's "
           "picture of the true one (1).", "share kept", "higher", ceiling="1", floor="0, a mean picture",
           sentence="Of a view that was left and is seen again a share of {value} is kept"),
    Metric("returns/pose", "Absolute error of the state that the reader reads off the frames behind a return, mean "
           "over columns.", "std. deviations", "lower", ceiling=READ_TRUTH, floor="another episode's view"),
    Metric("returns/half_life", "Seconds away after which half of a view is lost, with looks aside of several lengths.",
           "seconds away", "higher"),
    Metric("returns/longest", "The longest of these looks.", "seconds away", None),
    Metric("returns/starts", "How many real moments the courses begin in.", "starts", None),
    Metric("returns/game", "Why no view could be left and seen again.", "text", None),
    Metric("returns/{}_psnr", "PSNR behind the return of one course.", "dB", "higher", ceiling=THROUGH_VAE,
           floor=MEMORY),
    Metric("returns/{}_gap", "What it is below the PSNR of a view that was never left.", "dB", "lower",
           ceiling="0, where nothing is lost by leaving"),
    Metric("returns/{}_kept", "Where it lies between a mean picture (0) and the autoencoder's picture (1).",
           "share kept", "higher", ceiling="1", floor="0, a mean picture"),
    Metric("returns/{}_pose", "Absolute error of the state that is read behind the return of one course.",
           "std. deviations", "lower", ceiling=READ_TRUTH, floor="another episode's view"),
    Metric("returns/{}_seconds", "Time from the view to its return.", "seconds away", None),
    Metric("returns/{}_starts", "From how many starts the real game's view was left and came back.", "starts", None),
    Metric("drift/{}_area", "Mean over the horizon of the metric between its floor (0) and its ceiling (1).",
           "share kept", "higher", ceiling="1", floor="0"),
    Metric("drift/{}_half_life", "The first predicted frame in which half of the distance between ceiling and floor is "
           "lost.", "frames", "higher"),
    Metric("drift/{}_horizon", "The last predicted frame of the curve that drift was measured on.", "frames", None),
    Metric("drift/{}", "The metric by predicted frame on the scale from floor (0) to ceiling (1).", "share kept",
           "higher", ceiling="1", floor="0"),
    Metric("evaluate/{}_seconds", "Time that one part of the evaluation took.", "seconds", None, "videowm.measure"),
    Metric("evaluate/seconds", "Time that the evaluation took.", "seconds", None, "videowm.measure"),
    Metric("about", "What must be equal before the numbers of two runs compare: starts, context, horizon, data, "
           "reader, features, sampler.", "record", None, "videowm.evaluate.suite"),
    Metric("step", "Optimiser steps done.", "steps", None, "videowm.train.loop"),
    Metric("loss", "Training loss of the step's batch; in a world model about the held-out loss.",
           "MSE, or the weighted sum of its terms", "lower", "videowm.train.loop"),
    Metric("grad_norm", "Norm of the gradient before it is clipped.", "norm", None, "videowm.train.loop"),
    Metric("lr", "Learning rate of the step.", "rate", None, "videowm.train.loop"),
    Metric("gate", "What the action gate found where the actions are not yet obeyed.", "text", None,
           "videowm.train.gate"),
    Metric("muon", "Share of a step's time that Muon's matrices take.", "share", None, "videowm.train.loop"),
    Metric("samples_per_second", "Samples trained on a second, over all processes.", "samples per second", "higher",
           "videowm.train.meter"),
    Metric("tokens_per_second", "Tokens processed a second, over all processes.", "tokens per second", "higher",
           "videowm.train.meter"),
    Metric("mfu", "Model FLOPs utilisation: training FLOPs a second over the devices' dense bf16 peak.", "share",
           "higher", "videowm.train.meter", ceiling="1"),
    Metric("wait", "Share of the time spent waiting for data.", "share", "lower", "videowm.train.meter"),
    Metric("memory_gib", "Peak memory of the device, or of the process on a CPU.", "GiB", "lower",
           "videowm.train.meter"),
    Metric("shortcut/loss", "Loss of the samples that learn to step far.", MSE, "lower", "videowm.train.tasks.world"),
    Metric("text/empty", "Share of the step's samples with an empty caption.", "share", None, "videowm.train.words"),
    Metric("text/synthetic", "Share of the step's samples with a caption written by a model.", "share", None,
           "videowm.train.words"),
    Metric("text/short", "Share of the step's samples with a short caption.", "share", None, "videowm.train.words"),
    Metric("mse", "Mean squared error of reconstructed frames in [-1, 1].", "MSE", "lower", "videowm.vae.loss"),
    Metric("l1", "Mean absolute error of reconstructed frames.", "grey levels of 2", "lower", "videowm.vae.loss"),
    Metric("kl", "Half the mean squared latent: how far latents are from unit scale.", "nats per element", "lower",
           "videowm.vae.loss"),
    Metric("ssim", "One minus the structural similarity of reconstructed frames.", "1 - SSIM", "lower",
           "videowm.vae.loss"),
    Metric("gradient", "Mean absolute error of differences of neighbouring pixels.", "grey levels of 2", "lower",
           "videowm.vae.loss"),
    Metric("motion", "Mean squared error of differences of consecutive frames.", "MSE", "lower", "videowm.vae.loss"),
    Metric("moved", "Mean squared error over the pixels that changed.", "MSE", "lower", "videowm.vae.loss"),
    Metric("lpips", "Learned perceptual distance (VGG) of reconstructed frames.", "LPIPS", "lower", "videowm.vae.loss"),
    Metric("psnr", "PSNR of reconstructed training frames.", "dB", "higher", "videowm.vae.loss"),
    Metric("critic", "Hinge loss of the critic; 2 where it cannot tell real clips from decoded ones.", "hinge loss",
           None, "videowm.vae.critic", floor="2"),
    Metric("adversarial", "How false decoded clips look to the critic.", "critic's score", "lower",
           "videowm.vae.critic"),
)
# fmt: on
