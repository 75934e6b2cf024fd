"""What models are asked: by task, and by the kind of target that a drawn page gives."""

from __future__ import annotations

#: DeepSynth's own, by task and by kind of ``data.target``, for those that a model has no published prompt for.
#: That of ``locate`` holds the phrase.
OWN_PROMPTS: dict[str, str] = {
    "transcribe": "<image>\nTranscribe the text of this page.",
    "summarize": "<image>\nSummarize this document.",
    "markdown": "<image>\nConvert the page to Markdown, tables to HTML.",
    "markdown_pipes": "<image>\nConvert the page to Markdown.",
    "grounded": "<image>\nConvert the page to Markdown, with the box of each block.",
    "lines": "<image>\nTranscribe each line of this page with its box.",
    "locate": "<image>\nLocate <|ref|>{phrase}<|/ref|> in the image.",
    "table": "<image>\nConvert the tables of this page to HTML.",
}

#: Those of DeepSeek-OCR's model card (https://huggingface.co/deepseek-ai/DeepSeek-OCR). Where two kinds share one,
#: Markdown with and without boxes, the one without leaves ``<|grounding|>`` out. A summary is our own.
DEEPSEEK_PROMPTS: dict[str, str] = {
    "transcribe": "<image>\nFree OCR.",
    "markdown": "<image>\nConvert the document to markdown.",
    "markdown_pipes": "<image>\nConvert the document to markdown.",
    "grounded": "<image>\n<|grounding|>Convert the document to markdown.",
    "lines": "<image>\n<|grounding|>OCR this image.",
    "locate": "<image>\nLocate <|ref|>{phrase}<|/ref|> in the image.",
    "table": "<image>\nParse the figure.",
}

#: What boxes are written in, and the kinds of targets that have some.
BOX_TOKENS = ("<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>")
BOXED: tuple[str, ...] = ("grounded", "lines", "locate")
