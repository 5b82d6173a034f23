"""Figures of a trained model: perplexity and bits per byte by source, and scores of tasks."""

from jaxllm.evaluation.classification import ClassFigures, class_figures, tfidf_figures
from jaxllm.evaluation.harness import TextModel
from jaxllm.evaluation.perplexity import EvaluationConfig, Score, make_eval_step, score_sets, total
from jaxllm.evaluation.predictions import Predicted, make_predict_step, predict_set
from jaxllm.evaluation.tasks import TaskFigure, Tasks, find_tasks, task_figures

__all__ = [
    "ClassFigures",
    "EvaluationConfig",
    "Predicted",
    "Score",
    "TaskFigure",
    "Tasks",
    "TextModel",
    "class_figures",
    "find_tasks",
    "make_eval_step",
    "make_predict_step",
    "predict_set",
    "score_sets",
    "task_figures",
    "tfidf_figures",
    "total",
]
