"""Words beside numbers: which are units, which join two numbers to one answer, which begin a remark."""

from __future__ import annotations


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


NEGATIONS = _set("not no never neither nor none without cannot nicht kein keine pas")
REASONS = _set(
    "because since as so which where when while whereas although if but instead rather given thus therefore hence "
    "meaning i.e e.g namely after before not weil denn da car porque"
)
"""What follows is no part of the answer."""
REMARKS = _set(
    "for in on at of from with without per each every than is are was were will has have had that who this these "
    "those the a an he she it they we you i can could would should makes make gets total altogether left more less"
)
"""A number behind one of these is another number: "18 dollars for 5 days"."""
DIRECT = _set("of in by per versus vs out and or to through till until und oder et ou y o")
"""Right between two numbers these make one answer of both: "3 of 4", "3 or 4"."""
JOINED = _set("and or by to through till until und oder et ou plus")
"""These do so behind a unit, too: "3 apples or 4 apples"."""
IRRATIONAL = _set("sqrt root log ln sin cos tan cot sec csc exp pi infinity infinite infty oo nan")
NO_UNITS = _set("squared cubed factorial halves thirds fourths fifths sixths eighths tenths hundredths thousandths")
"""Right behind a number these change its value; behind a unit they belong to that."""
VARIABLES = frozenset("abceijknpqruvwxyz")
"""Letters that are no unit when glued to a number: 5x, 2ab. Not g, h, l, m, s, t and their like."""
SCALES = {
    "hundred": 10**2, "thousand": 10**3, "lakh": 10**5, "lakhs": 10**5, "million": 10**6, "millions": 10**6,
    "mn": 10**6, "mio": 10**6, "crore": 10**7, "crores": 10**7, "billion": 10**9, "billions": 10**9, "bn": 10**9,
    "trillion": 10**12, "trillions": 10**12, "quadrillion": 10**15, "万": 10**4, "亿": 10**8, "千": 10**3, "百": 10**2,
    "萬": 10**4, "億": 10**8, "millionen": 10**6, "millones": 10**6,
}  # fmt: skip
SHORT_SCALES = {"k": 10**3, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
"""Glued, and only behind money: $5k. Else they are variables, metres, bytes."""
_UNITS = {
    "hour": "hours hr hrs h", "minute": "minutes min mins", "second": "seconds sec secs s", "day": "days d",
    "week": "weeks wk wks", "month": "months", "year": "years yr yrs", "foot": "feet ft", "inch": "inches in",
    "yard": "yards yd yds", "mile": "miles mi", "pound": "pounds lb lbs", "ounce": "ounces oz", "dollar": "dollars",
    "cent": "cents", "meter": "meters metre metres m", "centimeter": "centimeters centimetre centimetres cm",
    "kilometer": "kilometers kilometre kilometres km", "kilogram": "kilograms kg", "gram": "grams g",
    "degree": "degrees", "quarter": "quarters", "dime": "dimes", "nickel": "nickels", "penny": "pennies",
    "gallon": "gallons gal", "quart": "quarts", "pint": "pints", "cup": "cups", "euro": "euros",
}  # fmt: skip
UNITS = {word: unit for unit, words in _UNITS.items() for word in (unit, *words.split())}
"""Units that make compounds: "5 feet 6 inches", "2 hours 30 minutes"."""
_MONTHS = """january jan|february feb|march mar|april apr|may|june jun|july jul|august aug|september sept sep|
october oct|november nov|december dec"""
MONTHS = {name: i for i, names in enumerate(_MONTHS.split("|"), start=1) for name in names.split()}


def is_negation(word: str) -> bool:
    """Whether what follows is said not to be so."""
    return word in NEGATIONS or word.endswith("n't")
