"""Abbreviations and first words of sentences by language, for `sentences`.

`NEVER` holds words of any language that end no sentence before a capital letter and are no words of English. `RULES`
holds those that another language shares with English (Spanish *Sr.*, German *S.*); they count in a text of that
language only, which its most frequent words tell (`rules_of`). Languages with a script of their own need no such guess,
so their words are in `NEVER` and `LAST` too. Parts of an abbreviation are joined: *z. B.* is looked up as `z.B`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise


def words(text: str) -> frozenset[str]:
    """Return the words of a list with blanks between them."""
    return frozenset(text.split())


@dataclass(frozen=True)
class Rules:
    """Abbreviations of a language. never: end no sentence. last: may, before one of the `starters`. ordinals: whether a
    full stop behind a number makes it an ordinal number."""

    never: frozenset[str] = frozenset()
    last: frozenset[str] = frozenset()
    starters: frozenset[str] = frozenset()
    ordinals: bool = False


STARTERS = words(
    "A After All Also Although An And Another As At Because Before Both But By Despite Did Do Does During Each Even "
    "Every For From Had Has Have He Hence Her Here His How However I If In Is It Its Many Meanwhile Most My No Nor Not "
    "Now Of On Once One Or Other Our Perhaps She Since So Some Still Such That The Their Then There These They This "
    "Those Though Through Thus To Under Until Upon Was We Were What When Where Which While Who Why With Yet You Your"
) | words(
    # Russian, Ukrainian
    "Он Она Оно Они Я Мы Вы Ты Его Её Ее Их В Во На По С Со К Ко О Об От До За Из У При Для После Перед Под Над Через "
    "Без Но И А Да Не Ни Это Этот Эта Эти Этого Эту Тот Та Те Как Когда Если Так Также Такой Такая Такие Затем Потом "
    "Тогда Там Здесь Кроме Однако Поэтому Хотя Все Всё Весь Многие Некоторые Один Одна Между Среди Согласно Благодаря "
    "Что Чтобы Где Кто Сейчас Теперь Уже Ещё Еще Именно Впоследствии Позже Впервые Вместе Около Наиболее Лишь Другие "
    "Другой Существует Був Вона Він Вони Це Цей Ці Із З Але Також Після Якщо Коли Проте Тому "
    # Greek
    "Ο Η Το Οι Τα Τον Την Της Του Των Στο Στη Στην Στον Στις Στα Στους Από Με Για Και Αυτό Αυτή Αυτός Αυτοί Όταν Αν "
    "Κατά Μετά Σε Όμως Είναι Ήταν Ένα Ένας Μια Μία Δεν Επίσης Ωστόσο Ως Πριν Αλλά Όπως Όλα Όλοι"
)
"""Words that open a sentence and seldom follow an abbreviation, in English and in languages with other scripts."""

NEVER = words(
    # German, Dutch, Scandinavian
    "Nr nr bzw Hrsg vgl Vgl Bd Bde Hr Frl Dipl ggf evtl inkl exkl sog z.B d.h u.U i.d.R v.a s.o s.u dhr mevr drs "
    "bijv d.w.z bl.a t.ex f.eks t.o.m fr.o.m "
    # French, Spanish, Portuguese, Italian, Romanian
    "Mmes Mgr Mgrs Vve p.ex c.-à-d Sra Sras Srta Srtas Sres Srs Dra Dras Dña Gral Cnel Lic Arq Excmo Exmo Profa Uds "
    "Ud Vd pág págs núm núms p.ej P.ej tít Avda Sig Dott Dott.ssa Sig.ra Avv dott sig avv p.es dvs "
    # Polish, Czech, Hungarian, Turkish, Vietnamese
    "św płk mgr inż np tzw ks tzn m.in dyr hab např tzv pí ifj özv Doç Yrd TP Tp PGS ThS GS "
    # Russian, Ukrainian, Bulgarian
    "т.е т.к т.н т.о т.ч т.наз им ул пл просп пр-т наб пер бул вул стр см См ср Ср напр Напр рис Рис табл гл Гл проф "
    "Проф акад доц св Св тов гр г-н г-жа ген полк мл ст ок англ нем фр франц лат греч итал исп яп кит рус укр польск "
    "араб букв оз пос дер корп инж канд докт зам зав тел вып тт пп "
    # Greek
    "π.χ Π.χ κα κκ δρ Δρ αγ Αγ βλ Βλ σελ αρ λ.χ "
    # Hindi, Marathi, Bengali
    "डॉ डा श्री श्रीमती प्रो पं स्व कु मो ड ডা ডঃ মো প্রফেসর শ্রী"
)
"""Abbreviations of other languages that end no sentence; none is a word of English."""

LAST = words(
    "Jh Jhs Jhd Mio Mrd v.Chr n.Chr o.Ä u.Ä u.a EE.UU UU a.C d.C J.-C "
    "г гг в вв н.э э руб коп тыс млн млрд мин сек час обл кв изд ред род рр "
    "π.Χ μ.Χ κ.λπ κ.ά κ.ο.κ"
)
"""Abbreviations of other languages that end a sentence before one of the starters."""

FINAL = words("т.д т.п")
"""Abbreviations of other languages that end a sentence before any capital letter."""
PAIRS = frozenset(
    pair
    for word in NEVER | LAST | FINAL
    if "." in word
    for pair in pairwise(word.split("."))
    if max(map(len, pair)) < 4
)
"""Consecutive parts of an abbreviation, such as ("z", "B")."""
FIRST_PARTS = frozenset(first for first, _ in PAIRS)

LETTERS = words("ए बी सी डी ई एफ जी एच आई जे के एल एम एन ओ पी क्यू आर एस टी यू वी डब्ल्यू एक्स वाई जेड सं ले")
"""Names of Latin letters in Hindi, which initials are written with where a danda ends the sentences."""

ENGLISH = Rules(starters=STARTERS)
RULES: Mapping[str, Rules] = {
    "de": Rules(
        never=words(
            "Fr S s Abs Art Abb Tab Kap geb gest Str Tel ca max min Max Min Ing Dr Ev ev kath röm lat griech engl frz"
        ),
        last=words("Chr etc St a ff f"),
        starters=STARTERS
        - words("All An As At By Even In Is No Not Of On One Or Other So To Was")
        | words(
            "Der Die Das Dem Den Des Ein Eine Einer Eines Einem Er Sie Es Wir Ihr Ich Du Man Im In Am An Auf Aus Bei "
            "Beim Mit Nach Von Vom Vor Zu Zum Zur Über Unter Für Durch Um Als Wenn Da Dann Dort Hier Doch Aber Und "
            "Oder Auch So Diese Dieser Dieses Diesen Seine Sein Ihre Nun Noch Nur Seit Während Weil Wie Wer Was Wo "
            "Warum Daher Dabei Danach Damit Außerdem Bis Trotz Obwohl Jedoch Später Zwischen Ab Gegen Alle Viele Kein "
            "Keine Nicht Schon Heute Jetzt Sein Später Zunächst Laut"
        ),
        ordinals=True,
    ),
    "fr": Rules(
        never=words("M MM Pr cf art chap fig vol éd coll env St Ste av apr Cie"),
        last=words("C etc"),
        starters=words(
            "Le La Les L Un Une Des Du De Il Elle Ils Elles On Nous Vous Je Tu Ce Cette Ces Cet C Ceci Cela Son Sa "
            "Ses Leur Leurs En Dans Sur Sous Par Pour Avec Sans Après Avant Depuis Pendant Mais Et Ou Or Donc Car Si "
            "Quand Lorsque Comme Puis Ainsi Alors Aussi Toutefois Cependant Bien Malgré À Au Aux Qui Que Quoi Où Tous "
            "Toutes Tout Chaque Plusieurs Certains Selon D S Y Est Entre"
        ),
    ),
    "es": Rules(
        never=words("Sr D Dr art arts cap fig vol ed Ing Sto Sta Fr Av tel S"),
        last=words("C etc UU"),
        starters=words(
            "El La Los Las Lo Un Una Unos Unas Al Del De En A Con Sin Por Para Según Sobre Tras Desde Hasta Durante "
            "Entre Y O Pero Si Cuando Como Aunque Porque Es Era Fue Son Se Su Sus Este Esta Estos Estas Ese Esa Esto "
            "Eso Él Ella Ellos Ellas Yo Tú Nosotros Usted No Sí Ya También Además Así Luego Después Antes Entonces "
            "Más Muchos Muchas Todos Todas Algunos Algunas Otros Otras Cada Mientras Hoy Ahora Aquí Allí Que Qué Hay "
            "Sin"
        ),
    ),
    "pt": Rules(
        never=words("Sr D Dr art arts cap fig vol ed Eng Sto Sta Av tel S n séc"),
        last=words("C etc"),
        starters=words(
            "O A Os As Um Uma Ao À Do Da Dos Das De Em No Na Nos Nas Com Sem Por Para Segundo Sobre Após Desde Até "
            "Durante Entre E Ou Mas Se Quando Como Embora Porque É Era Foi São Seu Sua Este Esta Estes Estas Esse "
            "Essa Isto Isso Ele Ela Eles Elas Eu Não Sim Já Também Além Assim Depois Antes Então Mais Muitos Muitas "
            "Todos Todas Alguns Algumas Outros Outras Cada Enquanto Hoje Agora Que Há"
        ),
    ),
    "it": Rules(
        never=words("art cap fig vol ed pag pagg prof Prof ing arch on sen gen S Ss tel es n geom"),
        last=words("C ecc"),
        starters=words(
            "Il Lo La I Gli Le L Un Uno Una Al Allo Alla Ai Del Dello Della Dei Di Da Dal Dalla In Nel Nella Nei "
            "Nelle Con Senza Per Su Sul Sulla Tra Fra Dopo Prima Durante E Ed O Ma Se Quando Come Anche Perché È Era "
            "Fu Sono Si Suo Sua Questo Questa Questi Queste Quello Quella Egli Ella Lui Lei Essi Loro Io Noi Non Sì "
            "Già Inoltre Così Poi Allora Più Molti Molte Tutti Tutte Alcuni Alcune Altri Altre Ogni Mentre Oggi Ora "
            "Che Chi"
        ),
    ),
    "nl": Rules(
        never=words("dr ir ing prof ca St blz"),
        last=words("enz Chr"),
        starters=words(
            "De Het Een Hij Zij Ze Wij We Ik Jij U Dit Dat Deze Die In Op Bij Met Na Van Voor Uit Over Onder Door Om "
            "Als Wanneer Toen Dan Daar Hier Maar En Of Ook Zijn Haar Hun Er Sinds Tijdens Omdat Hoe Wie Wat Waar Tot "
            "Alle Veel Niet Nu Later Volgens Tussen"
        ),
    ),
    "pl": Rules(
        never=words("im ul al pl dr prof gen mjr por s str nr ok ur zm red tj wg pt os woj pow"),
        last=words("r w n.e e tys mln mld zł itd itp"),
        starters=words(
            "W We Z Ze Na Po Do Od Za Przy Dla Przed Pod Nad Przez Bez O U A I Ale Nie To Ten Ta Te Jak Jest Gdy "
            "Jeśli Tak Także Następnie Potem Tam Tu Oprócz Jednak Dlatego Choć Wszystkie Wiele Jeden Między Według On "
            "Ona Oni Jego Jej Ich Był Była Było Już Od"
        ),
        ordinals=True,
    ),
    "cs": Rules(
        never=words("dr prof gen č čp str s sv roč ul nám Ing Mgr MUDr JUDr ak"),
        last=words("r l n.l st atd apod tis mil"),
        starters=words(
            "V Ve Z Ze Na Po Do Od Za Při Pro Před Pod Nad Přes Bez O U A I Ale Ne To Ten Ta Jak Je Když Pokud Tak "
            "Také Pak Potom Tam Zde Kromě Však Proto Všechny Mnoho Jeden Mezi Podle On Ona Oni Jeho Její Jejich Byl "
            "Byla Bylo Už"
        ),
        ordinals=True,
    ),
    "tr": Rules(
        never=words("Dr Prof Sn Av Alb Gen No bkz Bkz yy s"),
        last=words("M.Ö M.S vb vs"),
        starters=words(
            "Bu O Bir Ve Ancak Fakat Ama Bunun Buna Böylece Ayrıca Daha Sonra Onun Onlar Ben Biz Siz Her Bazı Birçok "
            "Tüm En Çok Şu İlk Eğer Çünkü Ne Nasıl"
        ),
        ordinals=True,
    ),
    "hu": Rules(
        never=words("dr pl kb ún ill st Dr"),
        last=words("stb e u"),
        starters=words("A Az Egy És De Ez Ezt Ő Ők Nem Is Ha Amikor Mint Azonban Később Majd Itt Ott Minden Már Még"),
        ordinals=True,
    ),
    "sv": Rules(
        never=words("dr prof ca kl s nr S:t"),
        last=words("osv etc"),
        starters=words(
            "Den Det De En Ett Han Hon Vi Jag Du Ni Man I På Av Med Till Från För Om När Då Där Här Men Och Eller "
            "Också Sedan Efter Under Denna Detta Dessa Som Hans Hennes Deras Inte Alla Många"
        ),
    ),
}  # fmt: skip

_FREQUENT = {
    "en": "the of and to in is was that it for with as his on are at by he from be this which or had were not but "
    "they i a you me my she her him so do said have there we what if no will would",
    "de": "der die das und ist den von mit des im auf dem ein eine einer nicht zu sich als auch wurde für er sie war",
    "fr": "le la les de des et est du un une dans que qui pour au par sur il elle en ce ne pas se plus son ses aux",
    "es": "el la los las de del que en un una por con es se su para al lo como más no fue sus",
    "pt": "os as do da dos das que em um uma para com não ao no na por se foi mais são é",
    "it": "il la le gli di che un una per con del della è non si nel nella dei al sono da come più anche",
    "nl": "de het een van en in is dat op te zijn met voor niet die aan er om door ook als bij werd naar",
    "pl": "na do się nie jest to od że przez po dla jako są był oraz za przy była było ten tej tym",
    "cs": "na se je že do to jako ve byl za pro které které jsou od po",
    "tr": "ve bir bu da de için ile olarak olan daha en çok gibi sonra kadar ne",
    "hu": "az és egy hogy nem is volt meg ez azt csak mint már de",
    "sv": "och att det som en på är av för med den till inte ett var från om han de",
    "vi": "và của là có được các trong một những cho không với đã",
    "id": "yang dan di dari untuk dengan pada ini dalam adalah tidak itu",
    "ro": "și în de la cu pe care este nu din un să",
    "da": "og er at det en til på som af for den ikke de",
    "fi": "ja on ei se että oli hän mutta myös joka kun",
}
_SAMPLE = 1000
_WORD = re.compile(r"[^\W\d_]+")

SHARED = frozenset().union(*(rules.never | rules.last for rules in RULES.values()))
"""Words that count in a text of their language only."""
ANY_STARTERS = STARTERS.union(*(rules.starters for rules in RULES.values()))


@cache
def _languages() -> dict[str, tuple[str, ...]]:
    """Return the languages of each frequent word."""
    languages: dict[str, tuple[str, ...]] = {}
    for language, frequent in _FREQUENT.items():
        for word in frequent.split():
            languages[word] = (*languages.get(word, ()), language)
    return languages


@lru_cache(maxsize=2)
def rules_of(text: str) -> Rules:
    """Return the rules of the language in which the beginning of a text is, English in doubt."""
    counts = {"en": 0}
    languages = _languages()
    for word in _WORD.findall(text[:_SAMPLE].lower()):
        for language in languages.get(word, ()):
            counts[language] = counts.get(language, 0) + 1
    language, most = max(counts.items(), key=lambda item: item[1])
    return RULES.get(language, ENGLISH) if most > counts["en"] and most > 1 else ENGLISH
