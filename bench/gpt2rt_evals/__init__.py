"""The tasks of GPT-2's paper (Radford et al. 2019, section 3), on the data sets' own files.

data.py                    finding and reading files; errors that name file and line
detokenise.py              invertible rules that undo a data set's tokenisation
text.py                    where a word begins in tokens; what fits into the context
model.py                   the interface of a language model that tasks use
metrics.py                 sums of statistics -> figures with confidence intervals
task.py                    the description of a task; the settings of a run
lm.py lambada.py ...       the tasks, a file a family
registry.py                the table of all tasks
run.py                     examples -> records, kept on disk, resumed after a kill
"""
