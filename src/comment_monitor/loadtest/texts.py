"""Made-up comment texts, with lengths, languages, questions, links and mentions as in real ones."""

import random
from typing import Final

# Several scripts, and the features that the analysis finds: questions, links, mentions, complaints, praise, shouting.
SENTENCES: Final = (
    "love this",
    "first",
    "Where can I buy this?",
    "Is there a version for Linux?",
    "Thanks for sharing, this helped me a lot",
    "I do not agree with this at all",
    "Worst update ever, please bring back the old one",
    "@{name} have you seen this?",
    "@{name} totally agree with you",
    "Check out https://example.com/{word}/{number} for more",
    "WHY IS NOBODY TALKING ABOUT THIS",
    "My order #{number} has not arrived, who can help?",
    "I have been waiting for the {word} since {number}",
    "So proud of you, keep going 💪",
    "lol the {word} at minute {number} 😂😂",
    "the {word} and the {word} were better last year, do not waste your money",
    "Das ist wirklich gut gemacht, danke @{name}",
    "Wann kommt der zweite Teil?",
    "C'est magnifique, merci beaucoup pour le {word}",
    "¿Cuándo sale la segunda parte?",
    "Muito bom, parabéns pelo {word}!",
    "Очень интересно, спасибо",
    "素晴らしい動画をありがとう",
    "منتج رائع، شكرا جزيلا",
)
NAMES: Final = ("ana", "ben", "chen", "dara", "eli", "fatima", "goran", "hana", "ivan", "june")
WORDS: Final = ("camera", "price", "song", "update", "battery", "ending", "delivery", "color", "match", "recipe")
# Sentences in a comment: a median near 50 characters, and a few long comments.
LENGTHS: Final = (1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 4, 6, 12, 40)


def make_texts(choice: random.Random, amount: int) -> list[str]:
    """Returns `amount` texts; drawn once for a run, so that a comment costs the generator next to nothing."""
    return [_text(choice) for _ in range(amount)]


def make_tails(choice: random.Random, amount: int) -> list[str]:
    """Returns `amount` short endings: the same text with the same ending hardly ever comes twice."""
    return [f" {choice.choice(WORDS)} {choice.randrange(1, 100_000)}" for _ in range(amount)]


def _text(choice: random.Random) -> str:
    return ". ".join(_sentence(choice) for _ in range(choice.choice(LENGTHS)))


def _sentence(choice: random.Random) -> str:
    return choice.choice(SENTENCES).format(
        name=choice.choice(NAMES), word=choice.choice(WORDS), number=choice.randrange(1, 3000)
    )
