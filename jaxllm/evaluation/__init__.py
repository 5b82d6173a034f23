"""Figures of a trained model: perplexity and bits per byte by source, and scores of tasks."""

from jaxllm.evaluation.answers import AnswerFigures, answer_figures
from jaxllm.evaluation.classification import ClassFigures, class_figures
from jaxllm.evaluation.entities import EntityFigures, entity_figures
from jaxllm.evaluation.harness import TextModel
from jaxllm.evaluation.perplexity import EvaluationConfig, Score, make_eval_step, score_sets, total
from jaxllm.evaluation.predictions import Predicted, make_predict_step, predict_set
from jaxllm.evaluation.tasks import TaskFigure, Tasks, find_tasks, task_figures
from jaxllm.evaluation.translation import TranslationFigures, translation_figures

__all__ = [
    "AnswerFigures",
    "ClassFigures",
    "EntityFigures",
    "EvaluationConfig",
    "Predicted",
    "Score",
    "TaskFigure",
    "Tasks",
    "TextModel",
    "TranslationFigures",
    "answer_figures",
    "class_figures",
    "entity_figures",
    "find_tasks",
    "make_eval_step",
    "make_predict_step",
    "predict_set",
    "score_sets",
    "task_figures",
    "total",
    "translation_figures",
]
