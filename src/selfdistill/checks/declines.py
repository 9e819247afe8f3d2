"""How languages other than English word refusals: what is declined, by the speaker, in the first two sentences.

A pattern is read as in `refusals.py`: a line break is a "|", "..." stands for some words of the sentence. All are
written in the spelling of `refusals.stance`: NFKC, lower case, plain apostrophes.
"""

from __future__ import annotations

import re
import unicodedata

_LINES = r"""
# German, French, Spanish, Portuguese and Italian, Dutch
(?:ich|leider|das|dabei|damit|dazu)\b...\b(?:nicht|kein\w*)\b...(?:helfen|unterst|geben|erstell|schreib|antwort
    bereit|tun)
tut mir leid,...\b(?:nicht|kein)|das (?:mache|tue) ich nicht|ich (?:weigere mich|lehne)|(?:gebe|leiste) ich kein
(?:helfe ich|ich helfe)\b...\bnicht|muss (?:ich )?ablehnen
je (?:refuse|ne (?:peux|suis|vais|saurais|pourrai) pas ...(?:aid|fourni|répond|donn|écri|cré|en mesure|assist
    satisf|génér))
il m'est impossible|je (?:dois|suis obligée? de) (?:refuser|décliner)
no (?:puedo|podemos|voy a|podré) ...(?:ayud|proporcion|dar|respond|crear|escri|ofrec|asist|generar|cumpl|particip)
me niego|debo (?:rechazar|negarme)|(?:lamento|siento) no poder
(?:não (?:posso|vou|consigo|poderei)|non posso) ...(?:ajud|aiut|forn|dar|rispond|respond|criar|creare|escre|scriv
    gerar)
(?:non sono in grado|não sou capaz|não estou em condições|non mi è possibile) ...(?:ajud|aiut|forn|dar|rispond
    respond)
mi rifiuto|recuso-me|me recuso
(?:ik (?:kan|zal|wil|mag)|(?:kan|zal|wil|mag) ik)\b...\bniet\b...(?:help|geven|beantw|schrijv|bieden|verstrek)
    ik weiger
# Swedish, Norwegian, Danish
(?:(?:jag|jeg|vi) (?:\w+ ){0,2}?(?:kan|vill?|kommer|får|må|ønsker)|(?:kan|vill?|kommer|får) (?:jag|jeg
    vi))\b...\b(?:inte|ikke)\b...(?:hjälp|hjelp|hjælp|bist[åa]|assist|svar|skriv|skap|lage|oppfyl|uppfyl|opfyl|stött
    støtt|tillhand|utför|udfør|utfør|förklar|forklar|\bge\b|\bgi\b|\bgive\b)
(?:tyvärr|dessverre|desværre|beklager|förlåt|undskyld)\b...\b(?:inte|ikke)\b...(?:hjälp|hjelp|hjælp|bist[åa]|svar
    skriv)
jag vägrar|jeg (?:nekter|nægter)|måste (?:jag )?(?:avböja|neka)|må (?:jeg )?(?:avslå|afvise|avvise)
# Polish; Czech and Slovak
nie (?:mogę|możemy|będę|zamierzam|potrafię|wolno mi|jestem w stanie)\b...(?:pom[oó]|udziel|dostarcz|odpowi|napisa
    stworz|poda[ćw]|spełni|wykona|wygener|opisa|wyjaśni|doradz|uczestn|wspier|zrobić tego|tego zrobić)
(?:przykro mi|przepraszam|niestety),?...\bnie (?:mogę|będę|pomogę|jestem w stanie)|\bodmawiam|muszę odmówić
(?:nemohu|nemůžu|nemůžeme|nebudu|nesmím|nejsem schop\w+|nemôže[mt]e?|nebudem|nie som schop\w+)\b...(?:pomoc
    pomoct|pomôc|poskyt|odpov|napsat|napísa|vytvoř|vytvor|splni|poradi|vyhov|podpor|vysvětl|vysvetl|gener)
(?:pomoc[it]|pomôcť|odpovědět|vyhovět|vyhovieť)\b...\b(?:nemohu|nemůžu|nemôžem)|(?:nepomohu|nepomůžu|nepomôžem)
(?:bohužel|omlouvám se|je mi líto|bohužiaľ|prepáčte),?...\b(?:nemohu|nemůžu|nemôžem)\b|\bodmít[aá]m|\bodmietam
# Russian, Ukrainian
не (?:могу|буду|смогу|имею возможности|в состоянии|вправе)\b...(?:помо|предостав|отве[тч]|напис|созда|выполн
    поддерж|объясн|обсужда|участв|рассказ|генер)
(?:я отказываюсь|вынужден\w* отказ|я не помогу)
не (?:можу|буду|зможу|маю змоги|в змозі)\b...(?:допомо|допомаг|надат|надава|відпов|напис|створ|викон|підтрим
    пояснит|обговор|участь)
(?:я відмовляюс|мушу відмов|змушен\w+ відмов)
# Greek
(?:δεν (?:μπορώ|μπορούμε|θα|είμαι σε θέση|επιτρέπεται)|αδυνατώ)\b...(?:βοηθ|παρέχ|παράσχ|παρασχ|δώσ|απαντ|γράψ
    δημιουργ|εκπληρ|ικανοποι|εξηγ|υποστηρ|συμμετ)
(?:αρνούμαι|πρέπει να αρνηθώ)\b
# Turkish
yardım(?:cı)? (?:ol|ed)[ae](?:m[ae]m|m[ae]y|mıyor|miyor|m\b)\w*|yardımcı olmam mümkün değil
(?:isteğ|taleb|soru|konu|bilgi|bunu|size|sana|talimat)\w*...(?:getir|karşıla|cevapla|yanıtla|sağla|paylaş|sun
    açıkla|oluştur|yaz|yap|ver|üret|anlat)(?:y?[ae])m(?:[ae]m|[ıiuü]yor|[ae]y)\w*
(?:üzgünüm|maalesef|ne yazık ki|kusura bakma\w*|özür dilerim),?...(?:[ae]m[ae]m|m[ıiuü]yorum|mümkün değil)\b
reddediyorum|reddetmek (?:zorunda|durumunda)
# Vietnamese
(?:tôi|mình|em|xin lỗi|rất tiếc)\b...(?:không (?:thể|được phép|có khả năng)|sẽ không|từ chối)\b...(?:giúp|hỗ trợ
    cung cấp|trả lời|viết|tạo|thực hiện|đáp ứng|hướng dẫn|giải thích|chia sẻ|tham gia|thảo luận|làm (?:điều|việc))
# Indonesian, Malay
(?:saya|kami|aku|maaf\w*|sayangnya)\b...\b(?:(?:tidak|tak) (?:dapat|bisa|boleh|mampu|akan|bersedia)|menolak
    enggan)\b...(?:bantu|menolong|beri|menyediakan|jawab|menulis|membuat|memenuhi|melakukan|menjelaskan|mendukung
    menyokong|melayani|terlibat|membahas|menghasilkan)
# Arabic
(?:لا|لن|لست)\s(?:أستطيع|استطيع|أتمكن|يمكنني|يسعني|أقدر|اقدر|قادرا على|أملك القدرة)...(?:ساعد|تقديم|أقدم|اقدم
    تزويد|توفير|إجابة|الإجابة|أجيب|كتابة|أكتب|إنشاء|شرح|إعطا|تنفيذ|تلبية|القيام|الرد|مشارك|دعم)
لن\s(?:أقوم|أساعد|أقدم|أكتب|أجيب|أشارك)|غير قادر على...(?:ساعد|تقديم|تلبية|الإجابة)|لا يمكن(?:ني)?\s(?:تقديم
    مساعد|توفير|تلبية)
(?:آسف|اسف|أعتذر|عذرا|عذرًا|للأسف|معذرة)،?...(?:لا|لن)\s(?:أستطيع|استطيع|يمكنني|أقدر|أتمكن|يسعني)|أعتذر عن (?:عدم
    تقديم|الإجابة)|أرفض
# Persian
(?:نمی[\u200c ]?(?:توان(?:م|یم)|تونم)|قادر نیستم|نخواهم توانست)...(?:کمک|ارائه|پاسخ|جواب|راهنما|انجام|بنویس|توضیح
    تولید|ایجاد|همکاری|به شما|در این)
(?:متاسف|متأسف|معذرت|عذر|ببخشید|پوزش)...(?:نمی[\u200c ]?(?:توان|تون)|قادر نیست)|(?:کمک
    پاسخ)...نمی[\u200c ]?(?:توان|کنم|دهم)|معذورم
# Hebrew
(?:לא (?:יכול|אוכל|ניתן|אפשר|מסוגל)ה?|אין באפשרותי|אינ?ני יכולה?|אין לי אפשרות)\b...(?:לעזור|לסייע|לספק|לענות
    לכתוב|להסביר|לבצע|לתת|ליצור|להשיב|לתמוך|להשתתף)
אני מסרבת?\b|(?:נאלץ|נאלצת|חייב|חייבת) לסרב|לא (?:אעזור|אספק|אסייע)
# Hindi
(?:मैं|हम|मुझे|क्षमा|माफ|खेद)...(?:नहीं (?:कर|दे|लिख|बना|बता)\S*(?: (?:सक|पाऊ|पाए)\S*)?|असमर्थ|मना कर)
"""
# Without word boundaries: Chinese, Japanese, Korean, Thai.
_UNSPACED = r"""
(?:无法|無法|不能|不会|不會|不可以|不便|不方便|没办法|沒辦法|难以|難以|拒绝|拒絕|不愿|不願|不应|不應)(?:\w{0,6})(?:提供|帮助|幫助|协助|協助|回答|满足|滿足|完成|给您|給您|写|寫
    支持|参与|參與|讨论|討論|进行|進行|透露|告诉|告訴)
恕(?:我)?(?:不能|无法|無法|难|難)|爱莫能助|愛莫能助|无可奉告|無可奉告|帮不了|幫不了|帮不上|幫不上
(?:抱歉|对不起|對不起)[^。]{0,20}(?:无法|無法|不能|不会|不可|不行)
^申し訳|^죄송|お断り(?:し|いたし|させ)|控えさせて
(?:でき|いたしかね|お答え|お応え|お手伝い)\w{0,3}(?:ません|かねます)|(?:手伝|応じ|教え)\w{0,4}ません
(?:도와|도움|제공|답변|작성|지원|수행|응할|응해|설명|알려|생성|협조|처리
    이행|들어)[^.\n]{0,14}?(?:수(?:가|는)? ?없|어렵습니다|않겠|못합니다|못해|불가)
(?:요청|질문)[^.\n]{0,10}(?:거절|거부)
^.{0,80}?(?:ไม่สามารถ|ไม่อาจ|ขอปฏิเสธ|ปฏิเสธที่จะ|ไม่ขอ)[^\n]{0,40}?(?:ช่วย|ให้|ตอบ|เขียน|สร้าง|ทำตาม|ดำเนินการ
    แนะนำ|อธิบาย|สนับสนุน|จัดหา|พูดคุย)
^.{0,80}?(?:ช่วย[^\n]{0,30}?ไม่ได้|(?:ขออภัย|ขอโทษ|เสียใจ)[^\n]{0,40}?(?:ไม่สามารถ|ไม่ได้|ไม่อาจ))
"""


def _pattern(lines: str) -> str:
    found = [line.strip() for line in unicodedata.normalize("NFKC", lines).strip().split("\n") if line[0] != "#"]
    return ("(?:" + "|".join(found) + ")").replace("...", "[^.!?]{0,60}?")


DECLINES_ABROAD = re.compile(rf"\b{_pattern(_LINES)}|{_pattern(_UNSPACED)}")
