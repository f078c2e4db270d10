"""Words to build prompts of: those of the task's own text, and a list of common ones.

COMMON is a plain list of everyday English words, of general instructions and of topics from money to music. It was
written by hand for this package, from general knowledge: no corpus, dictionary or published list was copied, and
single words belong to nobody. It comes under the package's licence (Apache-2.0).
"""

from __future__ import annotations

import re
from collections import Counter

from promptopt.providers import ModelSpec, load_litellm
from promptopt.task import Task
from promptopt.tokens import split_words, tokenizer_of
from promptopt.types import KEEP_MARK

# Letters alone: such words can make neither placeholders nor keep marks nor part headings.
_WORD = re.compile(r"[^\W\d_]{2,}")
_WORD_START = re.compile(r" ([^\W\d_]{2,})")
# Of a tokenizer's entries the first come from the most frequent texts; so many hold about 10,000 starts of words.
_N_ENTRIES = 25_000


def task_words(task: Task) -> tuple[str, ...]:
    """Return the distinct words of prompt, description, labels and train inputs, in lower case.

    Those that more train inputs hold come first among the last.
    """
    told = (KEEP_MARK.sub("", task.initial.instruction), task.description, *task.labels, *task.label_words)
    rows = Counter(word for e in task.train for word in {w: 1 for text in e.inputs.values() for w in _words(text)})
    seen = dict.fromkeys(word for text in told for word in _words(text))
    return tuple(seen | dict.fromkeys(word for word, _ in rows.most_common()))


def word_list(spec: ModelSpec) -> tuple[str, ...]:
    """Return tokens of the model that start a word, the most frequent first, where litellm carries them.

    Otherwise the words of COMMON, in alphabetical order. Nothing is fetched.
    """
    if tokenizer_of(spec) is split_words:
        return tuple(COMMON.split())
    litellm = load_litellm()
    entries = (litellm.decode(model=spec.name, tokens=[i]) for i in range(_N_ENTRIES))
    starts = (_WORD_START.fullmatch(entry) for entry in entries)
    return tuple(dict.fromkeys(match.group(1).lower() for match in starts if match))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


COMMON = """
ability about above absence accent access accident account across action activity actor add address adjective
adult advantage advertisement advice afraid africa after afternoon again against age agent ago agreement ahead
airline airport alarm algebra algorithm all ally alone along already also although always amazing america among
and angle angry animal another answer any anybody anyone anything apartment apology app appear apple application
approach arabic are area argument arm army around array arrive art article ashamed asia assume atom attach
attack attempt attention attitude audio author authority autumn average away awful baby back bacteria bake
balance banana band bank base baseball basis basketball bathroom beach bear beautiful because become bed bedroom
bee beef beer before behavior behind believe below benefit beside best better between beyond bible bicycle bill
biology bird birth birthday bitter black block blocked blood blue board boat body boil bomb bone book booking
boolean border bored boring borrow boss both boy brain brake brand bread break breakfast bridge brilliant bring
brother brown browser budget build bus business but butter button buy calendar call calm calories camera can
cancelled car card career carry cash cat catch category cause century certain chair champion chance change
chapter character charge chart chat checkout cheese chemical chemistry chicken child chinese choice choose
church circle circumstance city claim class classify clean clear client climate climb clinic clock close clothes
cloud cluster coach coat code coffee coin cold collection college color combination combine come command comment
common communication community company compare comparison competition complaint complete computer concept
concern concert conclusion condition confident confusion congratulations congress connect connection consequence
consider contact contain content context continue contract contradiction control conversation cook copper copy
core corner correct cost cough could count country couple course court cover cow create credit cricket crime
criminal critic cry culture cup curious currency current curve customer cut cycle daily dance danger dark data
database date daughter day deadline death debate debit debt december decide decision declined decrease deep
defeat defense definition degree delivery demand democracy depart dependence deposit depth description desert
design desire desk detail development device dialogue die diet difference different difficult dimension dinner
direct direction director disagreement discount discovery discussion disease dish dislike distance distribution
divide division doctor document dog dollar domain door dose double doubt doubtful down download draw dream dress
drink drive driver drop drug duck dull during duty each ear early earth east easy economy edge education effect
effort egg either election element else email emotion emphasis employee end enemy energy engine english enjoy
enough enter entire entity entry environment equal equation equipment error escape euro europe even evening
event ever every everyone everything evidence evolution exact exam example excellent except exception exchange
excited excuse exercise exist existence exit expand expect experience experiment expert expired explain
explanation express extent eye face fact factor factory failed failure fair faith fall false family fantastic
far farm fashion fast father fear feature fee feeling fever few field fight figurative figure file film final
finance find fine first fish flight floor flower fly focus follow food foot football for force foreign forest
forget form formal formula foundation fraction framework fraud free freedom french frequent fresh friday friend
friendly from fruit fry fuel full function funny furniture further future game gap garage garden gas gender
general genre geography geometry german gift girl give glass goal god gold golf good goodbye government grade
grammar grass grateful gray great green greeting group grow guess guest guide guilty gun habit had hair half
hand happen happy hard hardware has hat hate have head headline health hear heart heat height hello help here
hide high highway hint hire history hockey hold holiday home homework honor hope horrible horse hospital hostile
hotel hour house however human hungry husband hypothesis idea illegal illness image imagine impact important
impression include income increase indeed industry infection inflation influence informal information ingredient
initial innocent input insect inside insight instance instead institution instruction instrument insurance
integer intelligence intent intention interest internet interview into invalid investment invitation invoice
iron irony island issue item january job joke journalist journey judge juice july jump just justice keep key
keyboard kill kilometer kind king kitchen knife know knowledge label lack lake lamp language large last late
later laugh law lawyer layer leader leaf league learn least leave leg legal lend length less lesson letter level
library life lift light like likely limit line link lion liquid list listen literal little live loan local
location logic login long look loop lose loss lost lot love lovely low luck luggage lunch machine mail main
majority make man manager manner many map mark market marriage mass match material mathematics matrix matter may
meal mean measure meat mechanic medal media medicine mediocre medium meet meeting memory mental mention menu
message metal method middle midnight might mile milk mind mine minister minority minute mistake mix mixed mobile
mode model molecule moment monday money month mood moon more morning mortgage mosque most mother motion motive
motorcycle mountain mouse mouth move movie much multiply murder museum music must mystery name nation nature
near necessary need negation negative neighbor nervous network neutral never new news newspaper next night
nobody none nonsense noon norm normal north nose not note nothing notice notion noun novel now number nurse
nutrition object obligation observation obvious occasion ocean offer office often oil old olympic once one only
open operation opinion opportunity opposite option orange order ordinary origin other otherwise outcome output
outside over own package page pain painful paint painting paper paragraph parent parliament part particular
party passenger passport password past patient pattern pay payment peace pending people pepper percent
perception perfect performance perhaps period permission person personal perspective phase phenomenon philosophy
phone photo phrase physics picture piece pig pill pin pink place plain plan plane planet plant plastic plate
player pleasant please pleasure pocket poem point police policy polite politics pollution polygon poor position
positive positivity possession possible post potato potential pound poverty power practice praise prayer prefer
preference premise prepare presence present president pressure previous price principle priority prison private
probability probable problem process product profit program progress project promise pronoun proof proper
property proportion protect protest proud prove public pull pupil purchase pure purple purpose push put quality
quantity queen question quick quiet quite quote race radio rain range rank rare rate rather rating ratio reach
read reader ready real reality realize reason recall receipt receive recent recipe recognition recognize record
rectangle recycle red referee reference reflection refund region regular related relation relationship relevance
relevant relief religion remain remember reminder remove repair repeat replace reply report representation
republic reputation request require research reservation resource respect response responsibility rest
restaurant result resume retirement return review rice ride right rights rise risk river road robot role roof
room rough round route rude rule run running sad safe salad salary sale salt same sample save savings say scale
scene schedule scheme school science score screen sea season second security see seed seek seem select sell
senate send sense sentence separate sequence series serious server service set setting settings several shape
share sheep ship shipping shirt shoe shop short should shout show shrink side sign signal signature significance
silence silver similar simple since sing singer single sister situation size skill skin sky sleep slow small
smile snake snow soccer software soldier solid solution some someone something sometimes son song soon sorry
sort sound soup sour source south space spanish speak special specific speech speed spelling spice spider spirit
spoon sport spring square staff stage stand standard star start state statement station statistics status stay
step still stock stolen stomach stone stop store storm story straight strange strategy stream street stress
strike string strong structure student study style subject subtract success such sudden sugar suggestion sum
summary summer sun sunday superb supply support suppose sure surface surgery surprise suspect sweet swim
swimming symbol system table take talk target task tax taxi tea teach teacher team technique technology
television tell temperature temple ten tendency tennis tension term terrible terrorism test text than thanks
that the theater theft theme then theory therapy there therefore thing think third thirsty this though threat
three through throw thus ticket tiger time timer tire title today together tomato tomorrow tone tool tooth topic
total touching tour tourist tournament toward town trace track trade tradition traffic train training transfer
transition translation travel treatment treaty tree trend triangle trip trouble truck true trust truth try turn
two type typical ugly under understand unemployment union unique unit unity universe university until update
upload upon use useful user username usual vacation vaccine valid valley value vanish variable variation variety
various vegetable verb version very victim video view village virtue virus visa vision visit vitamin voice
volume vote voter wait walk wall wallet want war warning warranty was wash waste watch water way weakness wealth
weapon weather website wedding week weight welcome well were west what whatever when where whether which while
whisper white who whole whose why wide width wife will win wind window wine winter wisdom wish with withdrawal
within without witness wolf woman wonder wonderful wood word work worker world worried worse worst would write
writer wrong year yellow yes yesterday yet you young youth zero zone
"""
