"""The page's own words, in English and Chinese."""

from typing import Literal, TypeAlias

Language: TypeAlias = Literal["en", "zh"]

LANGUAGES: tuple[tuple[str, Language], ...] = (("English", "en"), ("中文", "zh"))

LABELS: dict[str, dict[Language, str]] = {
    "title": {"en": "Words and pictures", "zh": "图文并作"},
    "hint": {
        "en": "Write, paste pictures, in any order; the model goes on with both. Everything stays on this machine.",
        "zh": "写字、贴图，顺序随意；模型会接着写、接着画。一切都留在本机。",
    },
    "language": {"en": "Language", "zh": "语言"},
    "start": {"en": "Start from", "zh": "从何开始"},
    "new": {"en": "an empty page", "zh": "空白页"},
    "draft": {"en": "where you left off,", "zh": "上次的文档，"},
    "compose": {"en": "Write, or paste and drop pictures", "zh": "写字，或粘贴、拖入图片"},
    "add": {"en": "Add", "zh": "添加"},
    "continue": {"en": "Continue", "zh": "续写"},
    "stop": {"en": "Stop", "zh": "停止"},
    "settings": {"en": "Settings", "zh": "设置"},
    "pictures": {"en": "New pictures at most", "zh": "最多新图片数"},
    "seed": {"en": "Seed", "zh": "种子"},
    "seed_of": {"en": "seed", "zh": "种子"},
    "steps": {"en": "Steps of a picture", "zh": "每张图的步数"},
    "guidance": {"en": "Guidance", "zh": "引导"},
    "temperature": {"en": "Temperature of words", "zh": "文字温度"},
    "hero": {"en": "Your own picture as hero", "zh": "自己的图当主角"},
    "hero_hint": {
        "en": "Paste or drop a picture of a figure into the field above, name it here, and ask for its story.",
        "zh": "把一个人物的图贴到上面的输入框里，在这里给它起名，再请模型讲它的故事。",
    },
    "hero_name": {"en": "Name", "zh": "名字"},
    "hero_story": {"en": "Tell its story", "zh": "讲它的故事"},
    "hero_before": {"en": "this is {name}.", "zh": "这是{name}。"},
    "hero_behind": {"en": "tell a story about {name}.", "zh": "讲一个{name}的故事。"},
    "save": {"en": "Save", "zh": "保存"},
    "print": {"en": "Print", "zh": "打印"},
    "paragraph": {"en": "Paragraph", "zh": "段落"},
    "picture": {"en": "Picture", "zh": "图"},
    "reroll": {"en": "Draw again", "zh": "重画"},
    "from_here": {"en": "Go on from here", "zh": "从这里续写"},
    "up": {"en": "Up", "zh": "上移"},
    "remove": {"en": "Remove", "zh": "删除"},
    "reading": {"en": "reading …", "zh": "正在读……"},
    "painting": {"en": "painting", "zh": "正在画"},
    "saved": {"en": "Saved as", "zh": "已保存为"},
    "end": {"en": "The model ended the document.", "zh": "模型写完了。"},
    "max_images": {"en": "Ended; it wanted to draw more pictures than allowed.", "zh": "写完了；它还想画更多的图。"},
    "max_tokens": {"en": "Stopped at the word limit; continue for more.", "zh": "达到字数上限；可以继续。"},
    "context_full": {"en": "The model can read no more; remove something to go on.", "zh": "模型读不下更多内容；删去一些再继续。"},
    "stopped": {"en": "Stopped. What was made is kept.", "zh": "已停止，已完成的部分都保留。"},
    "unknown": {"en": "Words the model never learnt:", "zh": "模型没学过的词："},
    "lost": {
        "en": "The server does not answer. Leave this page open; it goes on by itself when 'mmi page' runs again on this port.",
        "zh": "服务器没有回应。请不要关闭此页面；在同一端口重新运行 mmi page 后，它会自动继续。",
    },
    "fault": {"en": "A fault of this software; the document is kept.", "zh": "软件出错，文档已保留。"},
}


def words(language: Language) -> dict[str, str]:
    """All labels in one language."""
    return {name: forms[language] for name, forms in LABELS.items()}
