"""The words of questions and answers, and the words drawn into pictures.

A drawn word must never be one token, or reading it would be a lookup: it is
spelled letter by letter. So no drawn word may be a question word or begin
with a two-letter one (`is`, `of`, ...).
"""

NUMBERS = tuple(str(n) for n in range(10))

# Every word a question or an answer of mini_suite can hold, drawn words aside.
SUITE_WORDS = tuple(
  """
    above are bar bars below blue bottom circle circles colour cross
    crosses does five four green high higher highest how is large left letter
    lower lowest many more no object objects of or orange pink red right ring
    rings shape size small square squares start teal than the there three top
    triangle triangles two upper what where which with word yellow yes
    """.split()
)

EASY_WORDS = tuple(
  """
    a black blue brown circle color contain does gray green image in is no not
    of present rectangle red shape teal the there triangle what yellow yes
    """.split()
)

VOCABULARY = tuple(sorted(set(SUITE_WORDS) | set(EASY_WORDS)))
_WHOLE = frozenset(VOCABULARY)

_CANDIDATES = """
    ace act age air ant arm art ash axe bag bat bed bee bin bit box boy bug
    bun bus cab cap car cat cow cub cup cut day den dog dot dry ear eel egg
    elf elk eye fan fig fin fly fog fox fun fur gap gas gem gum gut ham hat
    hay hen hip hog hut ice icy ink ivy jam jar jet jog joy jug keg key kid
    kin kit lab lap leg lid lip log mad man map mat mix mop mud mug nap net
    new now nut oak oar oat oil orb owl own pan paw pea pen pie pig pin pot
    pup rag ram rat ray rib rod rug run saw sea sky spy sun tap tax tea tin
    toe top toy tub urn use van vat vet vow war wax web wig win wok yak yam
    yap yen zap zen zip zoo
    """.split()


def drawable(word: str) -> bool:
  """Whether a word can be drawn: spelled by letters, never one token."""
  return word not in _WHOLE and word[:2] not in _WHOLE


WORDS = tuple(word for word in _CANDIDATES if drawable(word))
BY_LETTER = {
  letter: tuple(w for w in WORDS if w[0] == letter)
  for letter in sorted({w[0] for w in WORDS})
}
_NEIGHBORS = {
  word: tuple(
    other
    for other in WORDS
    if sum(a != b for a, b in zip(word, other, strict=True)) == 1
  )
  for word in WORDS
}


def sample_word(rng) -> str:
  """Draws a listed word: first letters uniform, then words of that letter."""
  letters = sorted(BY_LETTER)
  group = BY_LETTER[letters[rng.integers(len(letters))]]
  return group[rng.integers(len(group))]


def sample_neighbor(rng, word: str) -> str:
  """A drawable string that differs from `word` in exactly one letter.

  Half the time another listed word if there is one, so that a wrong word is
  not recognised by not being a word.
  """
  listed = _NEIGHBORS.get(word, ())
  if listed and rng.random() < 0.5:
    return listed[rng.integers(len(listed))]
  while True:
    place = rng.integers(len(word))
    letter = "abcdefghijklmnopqrstuvwxyz"[rng.integers(26)]
    other = word[:place] + letter + word[place + 1 :]
    if other != word and drawable(other):
      return other
