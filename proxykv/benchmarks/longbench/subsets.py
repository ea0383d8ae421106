"""LongBench's 21 subsets: official prompts, answer lengths and metrics (THUDM/LongBench, MIT)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxykv.benchmarks.longbench import metrics


@dataclass(frozen=True)
class Subset:
    """One subset as the official code runs it.

    `template` has slots {context} and {input}. `group` and `language` are the rows and columns of
    the official tables, where code counts as English. `chat` is False where no chat template is
    used; `first_line` says that only the answer's first line is scored.
    """

    group: str
    metric: Callable[..., float]
    max_new_tokens: int
    template: str
    language: str = "en"
    chat: bool = True
    first_line: bool = False
    stop: tuple[str, ...] = ()


# The official words, mistakes ("asconcisely") and blanks included.
PASSAGES = (
    "Answer the question based on the given passages. Only give me the answer and do not output "
    "any other words.\n\nThe following are given passages.\n{context}\n\n"
    "Answer the question based on the given passages. Only give me the answer and do not output "
    "any other words.\n\nQuestion: {input}\nAnswer:"
)
SUBSETS: dict[str, Subset] = {
    "narrativeqa": Subset(
        "single-document QA",
        metrics.qa_f1,
        128,
        "You are given a story, which can be either a novel or a movie script, and a "
        "question. Answer the question asconcisely as you can, using a single phrase "
        "if possible. Do not provide any explanation.\n\nStory: {context}\n\n"
        "Now, answer the question based on the story asconcisely as you can, using a "
        "single phrase if possible. Do not provide any explanation.\n\n"
        "Question: {input}\n\nAnswer:",
    ),
    "qasper": Subset(
        "single-document QA",
        metrics.qa_f1,
        128,
        "You are given a scientific article and a question. Answer the question as "
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
        "single-document QA",
        metrics.qa_f1,
        64,
        "Read the following text and answer briefly.\n\n{context}\n\n"
        "Now, answer the following question based on the above text, only give me the "
        "answer and do not output any other words.\n\nQuestion: {input}\nAnswer:",
    ),
    "multifieldqa_zh": Subset(
        "single-document QA",
        metrics.qa_f1_zh,
        64,
        "阅读以下文字并用中文简短回答：\n\n{context}\n\n"
        "现在请基于上面的文章回答下面的问题，只告诉我答案，不要输出任何其他字词。\n\n"
        "问题：{input}\n回答：",
        language="zh",
    ),
    "hotpotqa": Subset(
        "multi-document QA",
        metrics.qa_f1,
        32,
        PASSAGES,
    ),
    "2wikimqa": Subset(
        "multi-document QA",
        metrics.qa_f1,
        32,
        PASSAGES,
    ),
    "musique": Subset(
        "multi-document QA",
        metrics.qa_f1,
        32,
        PASSAGES,
    ),
    "dureader": Subset(
        "multi-document QA",
        metrics.rouge_l_zh,
        128,
        "请基于给定的文章回答下述问题。\n\n文章：{context}\n\n"
        "请基于上述文章回答下面的问题。\n\n问题：{input}\n回答：",
        language="zh",
    ),
    "gov_report": Subset(
        "summarization",
        metrics.rouge_l,
        512,
        "You are given a report by a government agency. Write a one-page summary of "
        "the report.\n\nReport:\n{context}\n\n"
        "Now, write a one-page summary of the report.\n\nSummary:",
    ),
    "qmsum": Subset(
        "summarization",
        metrics.rouge_l,
        512,
        "You are given a meeting transcript and a query containing a question or "
        "instruction. Answer the query in one or more sentences.\n\nTranscript:\n"
        "{context}\n\n"
        "Now, answer the query based on the above meeting transcript in one or more "
        "sentences.\n\nQuery: {input}\nAnswer:",
    ),
    "multi_news": Subset(
        "summarization",
        metrics.rouge_l,
        512,
        "You are given several news passages. Write a one-page summary of all news. \n\n"
        "News:\n{context}\n\nNow, write a one-page summary of all the news.\n\nSummary:",
    ),
    "vcsum": Subset(
        "summarization",
        metrics.rouge_l_zh,
        512,
        "下面有一段会议记录，请你阅读后，写一段总结，总结会议的内容。\n会议记录：\n"
        "{context}\n\n会议总结：",
        language="zh",
    ),
    "trec": Subset(
        "few-shot",
        metrics.classification,
        64,
        "Please determine the type of the question below. Here are some examples of "
        "questions.\n\n{context}\n{input}",
        chat=False,
        first_line=True,
    ),
    "triviaqa": Subset(
        "few-shot",
        metrics.qa_f1,
        32,
        "Answer the question based on the given passage. Only give me the answer and "
        "do not output any other words. The following are some examples.\n\n{context}\n\n"
        "{input}",
        chat=False,
        first_line=True,
    ),
    "samsum": Subset(
        "few-shot",
        metrics.rouge_l,
        128,
        "Summarize the dialogue into a few short sentences. The following are some "
        "examples.\n\n{context}\n\n{input}",
        chat=False,
        first_line=True,
        stop=("\n",),
    ),
    "lsht": Subset(
        "few-shot",
        metrics.classification,
        64,
        "请判断给定新闻的类别，下面是一些例子。\n\n{context}\n{input}",
        language="zh",
        chat=False,
        first_line=True,
    ),
    "passage_count": Subset(
        "synthetic",
        metrics.count,
        32,
        "There are some paragraphs below sourced from Wikipedia. Some of them may be "
        "duplicates. Please carefully read these paragraphs and determine how many "
        "unique paragraphs there are after removing duplicates. In other words, how "
        "many non-repeating paragraphs are there in total?\n\n{context}\n\n"
        "Please enter the final count of unique paragraphs after removing duplicates. "
        "The output format should only contain the number, such as 1, 2, 3, and so "
        "on.\n\nThe final answer is: ",
    ),
    "passage_retrieval_en": Subset(
        "synthetic",
        metrics.retrieval,
        32,
        "Here are 30 paragraphs from Wikipedia, along with an abstract. Please "
        "determine which paragraph the abstract is from.\n\n{context}\n\n"
        "The following is an abstract.\n\n{input}\n\n"
        "Please enter the number of the paragraph that the abstract is from. The "
        'answer format must be like "Paragraph 1", "Paragraph 2", etc.\n\n'
        "The answer is: ",
    ),
    "passage_retrieval_zh": Subset(
        "synthetic",
        metrics.retrieval_zh,
        32,
        "以下是若干段落文字，以及其中一个段落的摘要。请确定给定的摘要出自哪一段。\n\n"
        "{context}\n\n下面是一个摘要\n\n{input}\n\n"
        '请输入摘要所属段落的编号。答案格式必须是"段落1"，"段落2"等格式\n\n答案是：',
        language="zh",
    ),
    "lcc": Subset(
        "code",
        metrics.code_similarity,
        64,
        "Please complete the code given below. \n{context}Next line of code:\n",
        chat=False,
    ),
    "repobench-p": Subset(
        "code",
        metrics.code_similarity,
        64,
        "Please complete the code given below. \n{context}{input}Next line of code:\n",
        chat=False,
    ),
}
