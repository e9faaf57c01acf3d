"""Names, things, operations and treatments that the generated examples are made of."""

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Jane", "Tom")
THINGS = ("apples", "books", "cards", "coins", "eggs", "pens", "shells", "stones")
GOODS = ("bag", "bell", "chair", "clock", "coat", "lamp", "ring", "table")
_FUNCTION_TEXT = (
    "scale shift step move change update turn apply adjust convert score weight grade measure rank limit reduce "
    "extend grow bend check test mark compute find count level value price rate size pack fold cut"
)
FUNCTIONS = tuple(_FUNCTION_TEXT.split())
ARGUMENTS = ("x", "n", "a", "b", "y", "z")
# (wordings of a quantity, its expression)
OPERATIONS = (
    (("{x} plus {k}", "the sum of {x} and {k}"), "{x} + {k}"),
    (("{x} minus {k}", "{x} reduced by {k}"), "{x} - {k}"),
    (("{x} times {k}", "the product of {x} and {k}"), "{x} * {k}"),
    (("the whole part of {x} over {k}", "{x} divided by {k}, rounded down"), "{x} // {k}"),
    (("the remainder of {x} by {k}", "what is left of {x} after division by {k}"), "{x} % {k}"),
    (("the larger of {x} and {k}", "{x}, but at least {k}"), "max({x}, {k})"),
    (("the smaller of {x} and {k}", "{x}, but at most {k}"), "min({x}, {k})"),
    (("{x} to the power {k}", "{x} raised to {k}"), "{x} ** {k}"),
)
# condition=usual drug
_TREATMENT_TEXT = """
gout=allopurinol, hypothyroidism=levothyroxine, diabetes=metformin, high blood pressure=lisinopril,
high cholesterol=atorvastatin, asthma=albuterol, acid reflux=omeprazole, strep throat=penicillin,
pneumonia=azithromycin, bladder infection=nitrofurantoin, malaria=artemether, tuberculosis=isoniazid,
influenza=oseltamivir, cold sores=acyclovir, shingles=valacyclovir, hepatitis C=sofosbuvir, ringworm=terbinafine,
athlete's foot=clotrimazole, oral thrush=nystatin, scabies=permethrin, pinworms=mebendazole,
tapeworm=praziquantel, river blindness=ivermectin, leprosy=dapsone, Lyme disease=doxycycline, syphilis=penicillin,
gonorrhea=ceftriaxone, migraine=sumatriptan, epilepsy=lamotrigine, absence seizures=ethosuximide,
Parkinson's disease=levodopa, Alzheimer's disease=donepezil, multiple sclerosis=interferon,
myasthenia gravis=pyridostigmine, restless legs=pramipexole, facial neuralgia=carbamazepine,
bipolar disorder=lithium, schizophrenia=risperidone, depression=sertraline, anxiety=escitalopram,
insomnia=melatonin, narcolepsy=modafinil, opioid overdose=naloxone, alcohol withdrawal=diazepam,
heart failure=carvedilol, angina=nitroglycerin, atrial fibrillation=apixaban, blood clots=heparin,
swollen ankles=furosemide, iron deficiency=ferrous sulfate, pernicious anemia=cobalamin, scurvy=ascorbic acid,
rickets=vitamin D, folate deficiency=folic acid, hay fever=loratadine, anaphylaxis=epinephrine,
eczema=hydrocortisone, psoriasis=calcipotriol, acne=tretinoin, rosacea=metronidazole,
rheumatoid arthritis=methotrexate, lupus=hydroxychloroquine, osteoporosis=alendronate, fever=acetaminophen,
colitis=mesalamine, constipation=lactulose, diarrhea=loperamide, nausea=ondansetron, motion sickness=scopolamine,
heartburn=famotidine, glaucoma=latanoprost, enlarged prostate=tamsulosin, overactive bladder=oxybutynin,
hair loss=minoxidil, breast cancer=tamoxifen, chronic leukemia=imatinib, Wilson's disease=penicillamine,
lead poisoning=succimer, iron overload=deferoxamine, methanol poisoning=fomepizole, Graves' disease=methimazole,
Addison's disease=fludrocortisone, diabetes insipidus=desmopressin, acromegaly=octreotide, emphysema=tiotropium,
cystic fibrosis=ivacaftor, pulmonary hypertension=bosentan, organ rejection=tacrolimus,
sickle cell disease=hydroxyurea, muscle spasm=baclofen, fibromyalgia=duloxetine, nerve pain=gabapentin,
nicotine addiction=varenicline, vertigo=meclizine, toxoplasmosis=pyrimethamine, whooping cough=erythromycin
"""
TREATMENTS = tuple(tuple(pair.strip().split("=")) for pair in _TREATMENT_TEXT.split(","))
