"""In which language is an answer written? By its script and its commonest short words.

The refusal rules know the languages in `WITH_RULES`. An answer in another one cannot be judged by them. Names,
   numbers,
code and lists have no language.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

WITH_RULES = {
    "ar": "Arabic", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek", "en": "English", "es": "Spanish",
    "fa": "Persian", "fr": "French", "he": "Hebrew", "hi": "Hindi", "id": "Indonesian and Malay", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese",
    "ru": "Russian", "sk": "Slovak", "sv": "Swedish", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian",
    "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip

# Scripts with one language that has rules; scripts that several languages share are told apart by words.
_ONE = {"THAI": "th", "HANGUL": "ko", "HIRAGANA": "ja", "KATAKANA": "ja", "CJK": "zh", "GREEK": "el", "HEBREW": "he"}
_SHARED = ("LATIN", "CYRILLIC", "ARABIC", "DEVANAGARI")

# Short common words, and after a bar the letters that hardly any other language of the script has.
_LISTS = """
en the a of and to in is am i that it for you with on as are was be this have or by not but they at from an his her he
   she we your my me will would can if there their what all which when how so do does has had no yes more about
   into than
   then them these one some could should may must here just like also only its our out up use make get go ran made come
de der die das und ist nicht ein eine einer einem einen zu mit für auf von den dem des im sich es ich sie wir auch als
   an bei aus nach wie oder aber kann wird sind war haben hat wenn dass nur noch über durch | ß
fr le la les de des un une et est que qui dans pour sur pas ne ce il elle je vous nous avec par plus au aux du en se
   sont mais ou cette ces être c'est n'est d'un votre vos mon ma je j'ai | œ
es el la los las de del un una y es que en por para con no se lo su al como más pero sus le este esta está son o si ya
   muy mi me puedo ser hay | ñ ¿ ¡
it il lo la gli le di del della dei un una e è che in per con non si da sono come più ma o questo questa al nel alla ha
   mi ti ci anche essere
pt o a os as de do da dos das um uma e é que em para com não se no na por mais mas como ao são seu sua ou isso
   este esta
   eu você foi ser | ã õ
nl de het een en is van in dat niet op te zijn voor met die aan er ook als maar om dan nog bij uit wat of dit heeft kan
   worden door ik je u we naar
sv och att det som en på är av för med den till inte har de jag om ett han men var så från vi kan eller när ska också
no og i det på som er av for med til ikke den har jeg de et om han men var så fra vi kan eller når skal også etter
da og i det på som er af for med til ikke den har jeg de et om han men var så fra vi kan eller når skal også efter
cs a se v na je že s z do o k i ale jako za by pro tak po to jsem jsou není nebo ve si který která které od při | ě ř ů
sk a sa v na je že s z do o k i ale ako za by pre tak po to som sú nie alebo vo si ktorý ktorá od pri vám nám | ĺ ľ ŕ ô
pl i w na z do się nie jest to że o jak ale po za od co przez dla jego są tak być tym ten lub oraz może który która
   które ma już | ł ż ź ś ę ą ć
tr bir ve bu için ile da de olarak daha çok olan gibi ne var en kadar sonra ya değil mi ben sen o ama her bunu şu veya
   konuda olduğunu olur | ı ğ
vi là của và có cho không được với một trong này các những đã tôi bạn để về khi thì như từ người năm cũng hoặc
   ở | ơ ư ạ
   ả ấ ầ ẩ ậ ắ ằ ẵ ặ ẹ ẻ ế ề ể ễ ệ ỉ ị ọ ỏ ố ồ ổ ỗ ộ ớ ờ ở ợ ụ ủ ứ ừ ử ữ ự ỳ ỵ ỹ
id yang dan di ini itu dengan untuk tidak dari dalam akan pada juga saya anda ke karena ada adalah ialah bisa dapat
   boleh atau oleh telah sudah lebih seperti kita kami mereka sebagai maaf permintaan hal
fi ja on ei se että oli hän mutta ovat kun myös tai joka olen minä sinä sen tämä mitä niin kuin voi en voin ole tässä
   sinua siitä sijaitsee sekä valitettavasti
hu a az és hogy nem is egy ez van meg de azt csak mint volt már én de ha ezt lehet vagy ön nek még sajnos ebben tudok
   két ő | ű ő
ro și nu este să care pe din mai cu la ce sunt fi ca pentru că o un al dar sau acest această îmi te cel în | ș ț ş ţ
hr i je grad glavni najveći da se na u za su od ne s što kao to ali koji koja koje li bi biti ili sam vam nam
   mi može mogu nije ovaj ima | đ ć
sl je glavno mesto največje leži in se na da za v so ne s ki pa tudi kot po lahko ali z pri sem vam tem bi o ob mi ni
et ja on ei see et ta aga kui oma mis ma või ka siis selle olen saa mina sa asub selles ning
lv un ir lielākā ar no uz par ka kas bet es tas nav jums to šo vai kā arī lai | ģ ķ ļ ņ
lt ir yra kad su iš bet ne tai į aš jums kaip šiuo dėl ar į negaliu apie | ė ų į ą ę
tl ang ng sa na ay at mga hindi ko mo ito ako siya kung para may pero ngunit kita po ni iyan lang
ca el la molt gran els les de i és que en per amb no una un però això puc ho als del són més aquest aquesta tu | ŀ
eu eta da ez da bat du dut dizut baina izan zen hori nire ere dira ezin honetan horretan gehiago
sq dhe i e në të një është nuk për me që se nga por si jam kam mund unë ky kjo më ju
is og að er borg í á ekki ég það sem til við um þetta en hann hún því með af | ð þ
af die dit en is nie van het ek dat in om te vir met sy hy maar wat kan jy jou daarmee ons was ook baie
az və bir bu ilə üçün də da mən siz sizə kimi daha olan edə deyil bilmərəm | ə
sw ya na wa ni kwa katika la za hii hiyo cha yake ambayo sana lakini hapana mimi wewe samahani siwezi kuwa kama watu
zu ukuthi futhi uma kodwa ngoba noma yini lokhu ngiyaxolisa angikwazi ukuthi ngalesi
ha da na a ba ne ce don wannan amma ina kuma shi mu ku yi zan
yo ni ti si mo ma le ran binu lowo pelu ibeere ko awọn fun pe yi wa | ẹ ọ ṣ
so waa iyo ku in oo ka ma la ay uu waxaa waan aan kuma karo
cy yw ac mae'n y yr yn a mae i ar o ei am gan ond ddim gyda ni fod hynny wedi | ŵ ŷ
ga an na agus tá ní is ar le go i sé sí do bhí sin ach mé
eo la de kaj estas en ne mi ke por al ĝi sed pri kun tio ĉu vi povas | ĉ ĝ ŭ ĥ ĵ
la et in est non ad ut cum quod sed qui ex esse per sunt sit
jv lan ing ora iki saka kanggo karo ana iku
uz va bu bilan uchun ham emas men siz lekin yoki bo'lgan qila o'z
mg ny dia sy ao ho tsy izay amin'ny fa tsy aho
ru и в не на что я он с как это по но она к из у за от так же о вы его для мы то бы есть или если при был также могу
   этот этой эту
uk і в не на що я він з як це до та у за від так але вона для ми є або якщо також ви про його | і ї є ґ
bg и в столицата най е не на да се за от с че е по са но това като съм са ще или може към мога си след най
sr и у је да се на не за су од што са као то али који која или сам вам ми може могу није око | ђ ј љ њ ћ џ
be і ў не на што я ён з як магу выбачайце дапамагчы сталіцай гэта да та у за ад але яна для мы або таксама вы гэтым | ў
mk и во не на да се за од со што е по ги но тоа како сум или може можам ми | ѓ ѕ ќ
kk және мен бұл бір үшін да де бар жоқ емес еді деп осы бойынша | ә ғ қ ң ұ һ
mn энэ нь бол юм би та бас гэж байна болон ба | ө ү
ar في من على إلى أن هذا هذه لا ما هو هي التي الذي مع عن أو كان كما لم لن قد إن هل أنا ذلك بين كل | ة إ أ ى
fa و در به از که این را با است برای آن یک نمی می تا بر هم من شما یا خود اما ها مورد ایران | پ چ ژ گ
ur اور کے کی میں ہے کا سے کو نہیں یہ پر ہیں نے کہ آپ مدد ہوں | ٹ ڈ ڑ ے ں ہ
ps د په او دا چې نه له کې سره زه دي | ځ څ ډ ړ ږ ښ ې ۍ ټ ګ
ku لە و بە بۆ ئەو کە نییە دەتوانم | ێ ۆ ڵ ڕ ە
hi है में के की का और से को नहीं यह पर हैं ने कि एक हो भी मैं इस आप लिए कर तो या
mr आहे आणि मी या नाही करू शकत हे मध्ये आहेत ते हा ही तुम्ही | ळ
ne छ र मा को हो यो छैन गर्न तपाईं हुन्छ म गर्नुहोस् पनि सक्दिनँ
"""


def _read(lists: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Words and letters, each with the languages that have it."""
    words: dict[str, list[str]] = {}
    letters: dict[str, list[str]] = {}
    for entry in re.split(r"\n(?=\S)", unicodedata.normalize("NFKC", lists).strip()):
        code, _, rest = entry.partition(" ")
        common, _, special = rest.partition(" | ")
        for found, parts in ((words, common.split()), (letters, special.split())):
            for part in dict.fromkeys(parts):
                found.setdefault(part, []).append(code)
    return words, letters


_WORDS, _LETTERS = _read(_LISTS)
_NO_LANGUAGE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+|\S*[@/\\_={}<>()\[\]]\S*", re.S)
_TOKEN = re.compile(r"[^\W\d_][^\s\d_.,;:!?()\"“”«»।؟،۔]*")


def language(text: str) -> str | None:
    """The ISO 639-1 code of the text's language, "other" where it is none that is known here, None where the text has
    too few words of any language to say (names, numbers, code, a list)."""
    text = _NO_LANGUAGE.sub(" ", unicodedata.normalize("NFKC", text[:1500]))
    scripts = Counter(script for c in text if (script := _script(c)))
    if not scripts:
        return None
    own = Counter({script: n for script, n in scripts.items() if script != "LATIN"})
    script = max(own, key=own.__getitem__) if own.total() > scripts.total() / 3 else "LATIN"
    if script in ("HIRAGANA", "KATAKANA", "CJK"):
        return "ja" if own["HIRAGANA"] + own["KATAKANA"] > own.total() / 20 else "zh"
    return _by_words(text, script) if script in _SHARED else _ONE.get(script, "other" if own.total() > 3 else None)


def _by_words(text: str, script: str) -> str | None:
    tokens = [t for t in _TOKEN.findall(text) if _script(t[0]) == script]
    # A name begins with a capital; other scripts than Latin are told by names, too.
    words = [t for n, t in enumerate(tokens) if n == 0 or t[0] == t[0].lower() or script != "LATIN"]
    hits: Counter[str] = Counter()
    own: Counter[str] = Counter()  # of words that no language with rules has
    for token in map(str.lower, words):
        found = {*_WORDS.get(token, ()), *(code for letter in set(token) for code in _LETTERS.get(letter, ()))}
        hits.update(found)
        own.update(found if found.isdisjoint(WITH_RULES) else ())
    best = max(hits.values(), default=0)
    leading = sorted(code for code, n in hits.items() if n == best)  # a set has another order in every process
    if known := next((code for code in leading if code in WITH_RULES), None):
        return known
    if best >= max(2, len(words) / 10) and (distinct := next((code for code in leading if own[code]), None)):
        return distinct
    if script != "LATIN":
        some = next((code for code in sorted(hits) if code in WITH_RULES), None)
        return some or ("other" if len(words) > 3 else None)
    prose = len(words) >= 10 and len(re.findall(r"[\d,|\n;]", text)) < len(tokens) / 4
    return "other" if prose and best == 0 else None


@lru_cache(maxsize=4096)
def _script(character: str) -> str | None:
    return unicodedata.name(character, "").partition(" ")[0] if character.isalpha() else None
