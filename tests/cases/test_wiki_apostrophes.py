"""wiki-apostrophes: apostrophes beside marks of italic and bold stay in French and Italian words."""

from collections.abc import Callable
from pathlib import Path

from blankfill.corpus.wiki import read_dump


def test_apostrophes_stay(case: Callable[[str], Path]) -> None:
    pages = dict(read_dump(str(case("wiki-apostrophes") / "fr.xml"), "", "fr.xml"))
    assert pages == {
        "Andalousie": [
            "L'Andalousie est une région du sud de l'Espagne, connue pour l'Alhambra et pour d'autres palais anciens "
            "qui attirent les voyageurs."
        ],
        "Homère": ["Le poète écrivit l'Iliade dans sa jeunesse, puis il partit pour toujours vers la mer lointaine."],
        "Armonium": [
            "L'armonium o armonio (in francese, harmonium) è uno strumento musicale a tastiera che si suona con "
            "i pedali."
        ],
    }
