"""LongBench's 21 subsets: official prompts, answer lengths and metrics (THUDM/LongBench, MIT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxykv.benchmarks.longbench import metrics
from proxykv.benchmarks.longbench.subset import Subset


def _like(pattern: str, example: str) -> Mapping[str, Any]:
    return {"type": "string", "pattern": pattern, "description": f"a text like {example!r}"}


# Counts and mean lengths are the published ones, with 1.45 tokens to a word, 2.75 to a word of code
# and 0.7 to a Chinese character. The words are the official ones, mistakes ("asconcisely")
# and blanks included.
PASSAGES = (
    "Answer the question based on the given passages. Only give me the answer and do not output "
    "any other words.\n\nThe following are given passages.\n{context}\n\n"
    "Answer the question based on the given passages. Only give me the answer and do not output "
    "any other words.\n\nQuestion: {input}\nAnswer:"
)
TASKS: dict[str, Subset] = {
    "narrativeqa": Subset(
        group="single-document QA",
        metric=metrics.qa_f1,
        contexts=200,
        context_tokens=26700,
        max_new_tokens=128,
        template="You are given a story, which can be either a novel or a movie script, and a "
        "question. Answer the question asconcisely as you can, using a single phrase "
        "if possible. Do not provide any explanation.\n\nStory: {context}\n\n"
        "Now, answer the question based on the story asconcisely as you can, using a "
        "single phrase if possible. Do not provide any explanation.\n\n"
        "Question: {input}\n\nAnswer:",
    ),
    "qasper": Subset(
        group="single-document QA",
        metric=metrics.qa_f1,
        contexts=200,
        context_tokens=5200,
        max_new_tokens=128,
        template="You are given a scientific article and a question. Answer the question as "
        "concisely as you can, using a single phrase or sentence if possible. If the "
        "question cannot be answered based on the information in the article, write "
        '"unanswerable". If the question is a yes/no question, answer "yes", "no", or '
        '"unanswerable". Do not provide any explanation.\n\nArticle: {context}\n\n'
        " Answer the question based on the above article as concisely as you can, "
        "using a single phrase or sentence if possible. If the question cannot be "
        'answered based on the information in the article, write "unanswerable". If '
        'the question is a yes/no question, answer "yes", "no", or "unanswerable". Do '
        "not provide any explanation.\n\nQuestion: {input}\n\nAnswer:",
    ),
    "multifieldqa_en": Subset(
        group="single-document QA",
        metric=metrics.qa_f1,
        contexts=150,
        context_tokens=6600,
        max_new_tokens=64,
        template="Read the following text and answer briefly.\n\n{context}\n\n"
        "Now, answer the following question based on the above text, only give me the "
        "answer and do not output any other words.\n\nQuestion: {input}\nAnswer:",
    ),
    "multifieldqa_zh": Subset(
        group="single-document QA",
        metric=metrics.qa_f1_zh,
        contexts=200,
        context_tokens=4700,
        max_new_tokens=64,
        template="阅读以下文字并用中文简短回答：\n\n{context}\n\n"
        "现在请基于上面的文章回答下面的问题，只告诉我答案，不要输出任何其他字词。\n\n"
        "问题：{input}\n回答：",
        language="zh",
    ),
    "hotpotqa": Subset(
        group="multi-document QA",
        metric=metrics.qa_f1,
        contexts=200,
        context_tokens=13300,
        max_new_tokens=32,
        template=PASSAGES,
    ),
    "2wikimqa": Subset(
        group="multi-document QA",
        metric=metrics.qa_f1,
        contexts=200,
        context_tokens=7100,
        max_new_tokens=32,
        template=PASSAGES,
    ),
    "musique": Subset(
        group="multi-document QA",
        metric=metrics.qa_f1,
        contexts=200,
        context_tokens=16300,
        max_new_tokens=32,
        template=PASSAGES,
    ),
    "dureader": Subset(
        group="multi-document QA",
        metric=metrics.rouge_l_zh,
        contexts=200,
        context_tokens=11000,
        max_new_tokens=128,
        template="请基于给定的文章回答下述问题。\n\n文章：{context}\n\n"
        "请基于上述文章回答下面的问题。\n\n问题：{input}\n回答：",
        language="zh",
    ),
    "gov_report": Subset(
        group="summarization",
        metric=metrics.rouge_l,
        contexts=200,
        context_tokens=12700,
        max_new_tokens=512,
        template="You are given a report by a government agency. Write a one-page summary of "
        "the report.\n\nReport:\n{context}\n\n"
        "Now, write a one-page summary of the report.\n\nSummary:",
    ),
    "qmsum": Subset(
        group="summarization",
        metric=metrics.rouge_l,
        contexts=200,
        context_tokens=15400,
        max_new_tokens=512,
        template="You are given a meeting transcript and a query containing a question or "
        "instruction. Answer the query in one or more sentences.\n\nTranscript:\n"
        "{context}\n\n"
        "Now, answer the query based on the above meeting transcript in one or more "
        "sentences.\n\nQuery: {input}\nAnswer:",
    ),
    "multi_news": Subset(
        group="summarization",
        metric=metrics.rouge_l,
        contexts=200,
        context_tokens=3100,
        max_new_tokens=512,
        template="You are given several news passages. Write a one-page summary of all news. \n\n"
        "News:\n{context}\n\nNow, write a one-page summary of all the news.\n\nSummary:",
    ),
    "vcsum": Subset(
        group="summarization",
        metric=metrics.rouge_l_zh,
        contexts=200,
        context_tokens=10800,
        max_new_tokens=512,
        template="下面有一段会议记录，请你阅读后，写一段总结，总结会议的内容。\n会议记录：\n"
        "{context}\n\n会议总结：",
        language="zh",
    ),
    "trec": Subset(
        group="few-shot",
        metric=metrics.classification,
        contexts=200,
        context_tokens=7500,
        max_new_tokens=64,
        template="Please determine the type of the question below. Here are some examples of "
        "questions.\n\n{context}\n{input}",
        chat=False,
        first_line=True,
    ),
    "triviaqa": Subset(
        group="few-shot",
        metric=metrics.qa_f1,
        contexts=200,
        context_tokens=11900,
        max_new_tokens=32,
        template="Answer the question based on the given passage. Only give me the answer and "
        "do not output any other words. The following are some examples.\n\n{context}\n\n"
        "{input}",
        chat=False,
        first_line=True,
    ),
    "samsum": Subset(
        group="few-shot",
        metric=metrics.rouge_l,
        contexts=200,
        context_tokens=9100,
        max_new_tokens=128,
        template="Summarize the dialogue into a few short sentences. The following are some "
        "examples.\n\n{context}\n\n{input}",
        chat=False,
        first_line=True,
        stop=("\n",),
    ),
    "lsht": Subset(
        group="few-shot",
        metric=metrics.classification,
        contexts=200,
        context_tokens=15600,
        max_new_tokens=64,
        template="请判断给定新闻的类别，下面是一些例子。\n\n{context}\n{input}",
        language="zh",
        chat=False,
        first_line=True,
    ),
    "passage_count": Subset(
        group="synthetic",
        metric=metrics.count,
        answer=_like(r"^\d+$", "7"),
        contexts=200,
        context_tokens=16200,
        max_new_tokens=32,
        template="There are some paragraphs below sourced from Wikipedia. Some of them may be "
        "duplicates. Please carefully read these paragraphs and determine how many "
        "unique paragraphs there are after removing duplicates. In other words, how "
        "many non-repeating paragraphs are there in total?\n\n{context}\n\n"
        "Please enter the final count of unique paragraphs after removing duplicates. "
        "The output format should only contain the number, such as 1, 2, 3, and so "
        "on.\n\nThe final answer is: ",
    ),
    "passage_retrieval_en": Subset(
        group="synthetic",
        metric=metrics.retrieval,
        answer=_like(r"Paragraph \d+", "Paragraph 7"),
        contexts=200,
        context_tokens=13500,
        max_new_tokens=32,
        template="Here are 30 paragraphs from Wikipedia, along with an abstract. Please "
        "determine which paragraph the abstract is from.\n\n{context}\n\n"
        "The following is an abstract.\n\n{input}\n\n"
        "Please enter the number of the paragraph that the abstract is from. The "
        'answer format must be like "Paragraph 1", "Paragraph 2", etc.\n\n'
        "The answer is: ",
    ),
    "passage_retrieval_zh": Subset(
        group="synthetic",
        metric=metrics.retrieval_zh,
        answer=_like(r"段落\d+", "段落7"),
        contexts=200,
        context_tokens=4700,
        max_new_tokens=32,
        template="以下是若干段落文字，以及其中一个段落的摘要。请确定给定的摘要出自哪一段。\n\n"
        "{context}\n\n下面是一个摘要\n\n{input}\n\n"
        '请输入摘要所属段落的编号。答案格式必须是"段落1"，"段落2"等格式\n\n答案是：',
        language="zh",
    ),
    "lcc": Subset(
        group="code",
        metric=metrics.code_similarity,
        contexts=500,
        context_tokens=3400,
        max_new_tokens=64,
        template="Please complete the code given below. \n{context}Next line of code:\n",
        chat=False,
    ),
    "repobench-p": Subset(
        group="code",
        metric=metrics.code_similarity,
        contexts=500,
        context_tokens=11600,
        max_new_tokens=64,
        template="Please complete the code given below. \n{context}{input}Next line of code:\n",
        chat=False,
    ),
}
