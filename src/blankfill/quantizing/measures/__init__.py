"""What a quantised model loses and gains, measured against the model that it was made from.

`differences` compares the scores of two models and knows nothing of models; `text` has the rows on which they are
measured; `language` and `tasks` compute what two models predict for them; `speed` measures times.
"""
