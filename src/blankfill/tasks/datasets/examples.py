"""The beginning of a training file of each task, to be shown to users: header and rows as the task's reader takes them.

The sentences are our own. A test reads each example with the reader of its task.
"""

from __future__ import annotations

from blankfill.tasks.task import Task

_TWO = "index\tsentence1\tsentence2\tlabel\n0\tIt rained all night.\tThe streets are wet.\t{}\n"
_SQUAD = (
    '{"version": "1.1", "data": [{"title": "Tea", "paragraphs": [{"context": "Tea came to Lisbon in 1560.", "qas": '
    '[{"id": "q1", "question": "When did tea come to Lisbon?", "answers": [{"text": "1560", "answer_start": 22}]}]}]}]}'
    "\n"
)
_CHINESE_SQUAD = (
    '{"version": "1.0", "data": [{"title": "茶", "paragraphs": [{"id": "p1", "context": "茶在1560年到了里斯本。", '
    '"qas": [{"id": "q1", "question": "茶什么时候到了里斯本？", "answers": '
    '[{"text": "1560年", "answer_start": 2}]}]}]}]}\n'
)
_CONLL = "Anna B-PER\nlives O\nin O\nLisbon B-LOC\n. O\n\n"

EXAMPLES: dict[str, str] = {
    "chat": (
        '{"messages": [{"role": "user", "content": "What is tea?"}, {"role": "assistant", "content": "A drink."}]}\n'
        '{"prompt": "And coffee?", "response": "Another one.", "history": [["What is tea?", "A drink."]]}\n'
        '{"instruction": "Answer in one word.", "input": "Is tea cold?", "output": "No."}\n'
    ),
    "cola": "ours01\t1\t\tThe cat sat on the mat.\nours01\t0\t*\tThe cat mat the on sat.\n",
    "sst2": "sentence\tlabel\na quiet, lovely film\t1\ntwo hours that i want back\t0\n",
    "mrpc": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\tShares rose by 3% on Monday.\tOn Monday, shares were up "
        "3%.\n"
    ),
    "stsb": "index\tsentence1\tsentence2\tscore\n0\tA man plays a flute.\tA man is playing music.\t3.800\n",
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tHow do I boil an egg?\tHow are eggs boiled?\t1\n"
    ),
    "mnli": "index\tsentence1\tsentence2\tgold_label\n0\tIt rained all night.\tThe streets are wet.\tentailment\n",
    "qnli": (
        "index\tquestion\tsentence\tlabel\n0\tWhen did tea come to Lisbon?\tTea came to Lisbon in 1560.\tentailment\n"
    ),
    "rte": _TWO.format("entailment"),
    "wnli": _TWO.format("1"),
    "boolq": '{"question": "is tea a drink", "passage": "Tea is a hot drink.", "idx": 0, "label": true}\n',
    "cb": '{"premise": "It may rain.", "hypothesis": "It rains.", "idx": 0, "label": "neutral"}\n',
    "copa": (
        '{"premise": "The cup fell.", "choice1": "It broke.", "choice2": "It flew.", "question": "effect", "label": 0, '
        '"idx": 0}\n'
    ),
    "multirc": (
        '{"idx": 0, "passage": {"text": "Anna drinks tea.", "questions": [{"idx": 0, "question": "What does Anna '
        'drink?", "answers": [{"idx": 0, "text": "tea", "label": 1}, {"idx": 1, "text": "milk", "label": 0}]}]}}\n'
    ),
    "record": (
        '{"idx": 0, "passage": {"text": "Anna met Boris.", "entities": [{"start": 0, "end": 3}, {"start": 9, "end": '
        '13}]}, "qas": [{"idx": 0, "query": "@placeholder was met.", "answers": [{"start": 9, "end": 13, "text": '
        '"Boris"}]}]}\n'
    ),
    "sg-rte": '{"premise": "It rained.", "hypothesis": "It was wet.", "idx": 0, "label": "entailment"}\n',
    "wic": (
        '{"word": "bank", "sentence1": "The bank was steep.", "sentence2": "The bank is closed.", "start1": 4, "end1": '
        '8, "start2": 4, "end2": 8, "idx": 0, "label": false}\n'
    ),
    "wsc": (
        '{"text": "Anna thanked Maria because she had helped.", "target": {"span1_text": "Maria", "span1_index": 2, '
        '"span2_text": "she", "span2_index": 4}, "idx": 0, "label": true}\n'
    ),
    "ax-b": '{"sentence1": "It rained.", "sentence2": "It was dry.", "idx": 0, "label": "not_entailment"}\n',
    "ax-g": (
        '{"premise": "The guest paid the cook because she was full.", "hypothesis": "The guest was full.", "idx": 0, '
        '"label": "entailment"}\n'
    ),
    "chnsenticorp": "label\ttext_a\n1\t房间很干净，早餐也好。\n0\t太吵了，睡不着。\n",
    "afqmc": '{"sentence1": "怎么还款", "sentence2": "如何还钱", "label": "1", "id": 0}\n',
    "tnews": '{"label": "104", "label_desc": "news_finance", "sentence": "股市周一上涨", "id": 0}\n',
    "cluewsc": (
        '{"text": "安娜谢了玛丽，因为她帮了忙。", "target": {"span1_text": "玛丽", "span1_index": 4, "span2_text": '
        '"她", "span2_index": 9}, "idx": 0, "label": "true"}\n'
    ),
    "squad": _SQUAD,
    "squad2": _SQUAD.replace('"1.1"', '"v2.0"').replace('"question":', '"is_impossible": false, "question":'),
    "xquad": _SQUAD,
    "cmrc2018": _CHINESE_SQUAD,
    "drcd": _CHINESE_SQUAD,
    "squad-questions": _SQUAD,
    "swag": (
        ",video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label\n"
        "0,v1,1,She fills the kettle. She,She fills the kettle.,She,gold,waits for the water.,eats the kettle.,"
        "paints the door.,sings to the cup.,0\n"
    ),
    "hellaswag": (
        '{"ind": 0, "ctx_a": "She fills the kettle.", "ctx_b": "she", "ctx": "She fills the kettle. she", "endings": '
        '["waits for the water.", "eats the kettle.", "paints the door.", "sings."], "label": 0, "split": "train"}\n'
    ),
    "conll": _CONLL,
    "wnut17": _CONLL.replace(" B-PER", "\tB-person").replace(" B-LOC", "\tB-location").replace(" O", "\tO"),
    "wikigold": "Anna I-PER\nlives O\nin O\nLisbon I-LOC\n. O\n\n",
    "weibo": "安0\tB-PER.NAM\n娜1\tI-PER.NAM\n来0\tO\n了1\tO\n\n",
    "scitldr": (
        '{"source": ["Tea is a drink.", "We measure how fast it cools."], "source_labels": [0, 1], "paper_id": "p1", '
        '"target": ["We measure how tea cools."]}\n'
    ),
    "csl-title": "to title\t我们测量茶变冷的速度。\t茶的冷却\n",
    "wikitext2": " \n = Tea = \n \n Tea is a drink made from leaves and hot water . \n \n",
    "lambada": '{"text": "She filled the kettle, waited, and at last she drank her tea"}\n',
    "classify": 'text,label\n"A quiet, lovely film.",good\nTwo hours that I want back.,bad\n',
    "regress": "text,score\nA quiet film.,4.5\nTwo hours that I want back.,1\n",
    "multilabel": 'text,labels\nA quiet film about tea.,"drama,food"\nTwo cooks in love.,"food,romance"\n',
    "tag": '{"words": ["Anna", "lives", "in", "Lisbon"], "tags": ["B-PER", "O", "O", "B-LOC"]}\n',
    "qa": (
        "question,context,answer\nWhen did tea come to Lisbon?,Tea came to Lisbon in 1560.,1560\n"
        "Who brought the tea?,Tea came to Lisbon in 1560.,\n"
    ),
    "choice": '{"context": "She fills the kettle.", "choices": ["She waits.", "She eats it."], "label": 0}\n',
    "seq2seq": "source,target\nTea came to Lisbon in 1560 by ship.,Tea came by ship.\n",
}
"""The beginning of a file, by the name of its task."""


def example_file(task: Task) -> tuple[str, str]:
    """Return the name of a file of a task, of its training split where it has one, and the beginning of that file.

    The beginning is "" for a task of the user's own. Where a task reads several kinds of files, the name is that of the
    kind of the example.
    """
    text = EXAMPLES.get(task.name, "")
    names = task.files["train"] if "train" in task.files else next(iter(task.files.values()))
    wanted = ".jsonl" if text.startswith("{") else ".csv"
    fitting = [name for name in names if name.endswith(wanted) and "*" not in name]
    return (fitting or list(names))[0], text
