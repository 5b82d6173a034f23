"""Figures of a trained model: perplexity and bits per byte by source."""

from jaxllm.evaluation.perplexity import EvaluationConfig, Score, make_eval_step, score_sets, total

__all__ = ["EvaluationConfig", "Score", "make_eval_step", "score_sets", "total"]
